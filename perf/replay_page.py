"""``replay.json`` as a picture and as the README's paragraph: ``python -m perf.replay_page``."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from perf.marked import replace_marked  # noqa: E402

RESULT = Path(__file__).parent / "results" / "replay.json"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- perf/results/replay.json begins -->", "<!-- perf/results/replay.json ends -->"
BUNDLES = {"encoder": "MiniLM with LoRA", "additive": "additive models, which train in seconds"}
OURS, FROZEN, ALARM, PROMOTED = "#1f6f8b", "#b0b7bf", "#d1603d", "#2e8b57"


def first(found: dict[str, Any], kind: str) -> list[int]:
    """Return the requests at which something of a kind happened, each once, in order."""
    return sorted({event["request"] for event in found["events"] if event["kind"] == kind})


def alarms(found: dict[str, Any]) -> list[int]:
    """Return the requests after which drift asked for a retraining and got one."""
    return sorted(
        {e["request"] for e in found["events"] if e["kind"] == "drift" and e["what"].endswith("; retraining")}
    )


def paragraph(found: dict[str, Any]) -> str:
    """Say in a few lines what the replay showed."""
    lines = [
        f"{found['requests']:,} headlines of {found['labels']} topics, one a minute in the order of time, after a "
        f"first bundle that learned from the {found['history']:,} before them; outcomes come hours late (median 3), "
        f"one in twenty never. Bundles are {BUNDLES[found['trainer']]}.",
        "",
        "| promoted after request | requests compared | in force | never changed | advantage, paired 95 % interval |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['from']:,} | {one['requests']:,} | {one['in_force']:.3f} | {one['frozen']:.3f} | "
        f"{one['advantage']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f}) |"
        for one in found["after_promotions"]
        if "advantage" in one
    ]
    asked = ", ".join(f"{at:,}" for at in alarms(found))
    whole = found["accuracy"]
    lines += [
        "",
        f"Drift asked for retrainings that were begun after request {asked}; {len(found['trainings'])} trainings, the "
        f"first one included, took {found['cpu_seconds']:.0f} s of CPU with everything else. Over all requests: "
        f"{whole['in_force']:.3f} in force, {whole['frozen']:.3f} never changed.",
    ]
    return "\n".join(lines)


def picture(found: dict[str, Any], path: Path) -> None:
    """Draw accuracy over time, alarms and promotions marked."""
    matplotlib.rcParams.update({"svg.hashsalt": "interlock", "font.size": 9, "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    over = found["over_time"]
    at = [one["to"] - 125 for one in over]
    axes.plot(at, [one["frozen"] for one in over], color=FROZEN, lw=2, label="first bundle, never changed")
    axes.plot(at, [one["in_force"] for one in over], color=OURS, lw=2, label="bundle in force")
    for kind, marks, colour in (
        ("drift found, retraining", alarms(found), ALARM),
        ("promoted", first(found, "promoted"), PROMOTED),
    ):
        for i, x in enumerate(marks):
            axes.axvline(x, color=colour, lw=1.2, ls="--" if colour == ALARM else "-", label=kind if i == 0 else None)
    axes.set_xlim(0, found["requests"])
    axes.set_ylim(0, 1.25 * max(max(one[name] for name in ("in_force", "frozen")) for one in over))
    axes.set_xlabel("requests since the first bundle went live")
    axes.set_ylabel("accuracy over 250 requests")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="upper center")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Entry point."""
    found = json.loads(RESULT.read_text())
    picture(found, RESULT.with_suffix(".svg"))
    replace_marked(README, BEGIN, END, paragraph(found))


if __name__ == "__main__":
    main()
