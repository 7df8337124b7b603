"""``drift.json`` as a picture and as the table of the detectors' README: ``python -m perf.drift_page``."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from perf.marked import replace_marked  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "drift.json"
README = Path(__file__).parents[1] / "controlplane" / "detectors" / "README.md"
BEGIN, END = "<!-- perf/results/drift.json begins -->", "<!-- perf/results/drift.json ends -->"
OURS, EQUAL = "interlock", "equal false alarms"


def shown(found: dict[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return (stream, change, entries that compete) with each entry's delay at that change."""
    rows = []
    for stream in found["streams"]:
        for change in stream["changes"]:
            entries = []
            for entry in stream["detectors"]:
                said = next(c for c in entry["changes"] if c["change"] == change["name"])
                if entry["detector"] == OURS or entry["kind"] == EQUAL:
                    entries.append({**entry, "delay": said["delay"], "by": said["by"]})
            rows.append((stream["stream"], change["name"], entries))
    return rows


def table(found: dict[str, Any]) -> str:
    """Write the table: ours as it comes, then ours and the best of each kind of rival at equal false alarms."""
    lines = [
        "| stream | known change | watched | as it comes | found by | **interlock** | ADWIN | Page-Hinkley | PSI |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stream, change, entries in shown(found):
        ours = next(e for e in entries if e["detector"] == OURS and e["kind"] != EQUAL)
        equal = [e for e in entries if e["kind"] == EQUAL]
        watched = next(
            c["rows_watched"]
            for s in found["streams"]
            if s["stream"] == stream
            for c in s["changes"]
            if c["name"] == change
        )
        cells = [_best(equal, kind) for kind in (OURS, "ADWIN", "Page-Hinkley", "PSI")]
        mine = "not found" if ours["delay"] is None else f"{ours['delay']:,}"
        lines.append(f"| {stream} | {change} | {watched:,} | {mine} | {ours['by']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| stream | windows of | detector | silent A/A replays, as it comes | setting for equal false alarms |",
    ]
    lines += ["|---|---|---|---|---|"]
    for stream in found["streams"]:
        for entry in stream["detectors"]:
            if entry["kind"] == EQUAL:
                continue
            equal = next(
                (e for e in stream["detectors"] if e["detector"] == entry["detector"] and e["kind"] == EQUAL),
                None,
            )
            setting = "" if equal is None else _setting(equal)
            share = f"{entry['silent_share']:.0%} of {entry['replays']}"
            lines.append(
                f"| {stream['stream']} | {stream['plan']['window']} | {entry['detector']} | {share} | {setting} |"
            )
    return "\n".join(lines)


def _setting(entry: dict[str, Any]) -> str:
    if entry["setting"] is None:
        return "none tried is silent enough"
    return f"{entry['parameter']} {entry['setting']:g} ({entry['silent_share']:.0%})"


def _best(entries: list[dict[str, Any]], kind: str) -> str:
    delays = [e["delay"] for e in entries if e["detector"].startswith(kind) and e["delay"] is not None]
    return f"{min(delays):,}" if delays else "not found"


def picture(found: dict[str, Any], path: Path) -> None:
    """Draw delays, a row a change."""
    rows = shown(found)
    figure, axes = pyplot.subplots(figsize=(10, 0.62 * len(rows) + 1.4))
    kinds = (
        ("interlock", "#2563eb", "o"),
        ("ADWIN", "#d97706", "s"),
        ("Page-Hinkley", "#059669", "^"),
        ("PSI", "#7c3aed", "D"),
    )
    for y, (_, _, entries) in enumerate(rows):
        for place, (kind, colour, mark) in enumerate(kinds):
            equal = [e for e in entries if e["kind"] == EQUAL and e["detector"].startswith(kind)]
            delays = [e["delay"] for e in equal if e["delay"] is not None]
            delay = min(delays, default=math.nan)
            axes.scatter([delay], [y + 0.16 * (place - 1.5)], color=colour, marker=mark, s=60, zorder=3)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{stream}: {change}" for stream, change, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("rows from the change to the first alarm, at equal false alarms (absent: not found)")
    axes.grid(axis="x", which="both", color="#e4e4e7", zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles = [pyplot.Line2D([], [], color=c, marker=m, linestyle="", label=k) for k, c, m in kinds]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.4, 1.12 if len(rows) > 6 else 1.3),
        ncols=4,
        frameon=False,
    )
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Entry point."""
    found = json.loads(RESULTS.read_text())
    picture(found, RESULTS.with_suffix(".svg"))
    replace_marked(README, BEGIN, END, table(found))


if __name__ == "__main__":
    main()
