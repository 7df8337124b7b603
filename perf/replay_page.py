"""``replay-*.json`` as a picture and as the README's paragraph: ``python -m perf.replay_page``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from perf.marked import replace_marked  # noqa: E402

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "controlplane" / "README.md"
BEGIN, END = "<!-- perf/results/replay-*.json begins -->", "<!-- perf/results/replay-*.json ends -->"
BUNDLES = {"encoder": "MiniLM with LoRA", "additive": "additive"}
OURS, FROZEN, ALARM, PROMOTED = "#1f6f8b", "#b0b7bf", "#d1603d", "#2e8b57"


def first(found: dict[str, Any], kind: str) -> list[int]:
    """Return the requests at which something of a kind happened, each once, in order."""
    return sorted({event["request"] for event in found["events"] if event["kind"] == kind})


def alarms(found: dict[str, Any]) -> list[int]:
    """Return the requests after which drift asked for a retraining and got one."""
    return sorted(
        {e["request"] for e in found["events"] if e["kind"] == "drift" and e["what"].endswith("; retraining")}
    )


def recorded() -> list[dict[str, Any]]:
    """Read the replay of each trainer that has one."""
    paths = [RESULTS / f"replay-{trainer}.json" for trainer in BUNDLES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def paragraph(replays: Sequence[dict[str, Any]]) -> str:
    """Say in a few lines what the replays showed."""
    any_of = replays[0]
    lines = [
        f"{any_of['requests']:,} headlines of {any_of['labels']} topics, one a minute in the order of time, after "
        f"a first bundle that learned from the {any_of['plan']['history']:,} before them; outcomes come hours late "
        "(median 3), one in twenty never.",
        "",
        "| bundles | retrained after request | promoted after | requests compared | in force | never changed "
        "| advantage, paired 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in replays:
        asked = ", ".join(f"{at:,}" for at in alarms(found)) or "never"
        promoted = [one for one in found["after_promotions"] if "advantage" in one]
        lines += [
            f"| {_bundles(found)} | {asked} | {one['from']:,} | {one['requests']:,} | {one['in_force']:.3f} | "
            f"{one['frozen']:.3f} | {one['advantage']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f}) |"
            for one in promoted
        ]
        if not promoted:
            lines.append(f"| {_bundles(found)} | {asked} | never | | | | |")
    lines.append("")
    lines += [
        f"{_bundles(found)}: {len(found['trainings'])} trainings, the first one included, took "
        f"{found['cpu_seconds']:,.0f} s of CPU with everything else. Over all requests: "
        f"{found['accuracy']['in_force']:.3f} in force, {found['accuracy']['frozen']:.3f} never changed."
        for found in replays
    ]
    return "\n".join(lines)


def _bundles(found: dict[str, Any]) -> str:
    return BUNDLES[found["plan"]["trainer"]]


def picture(replays: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy over time, alarms and promotions marked, one replay below the other."""
    matplotlib.rcParams.update({"svg.hashsalt": "interlock", "font.size": 9, "svg.fonttype": "none"})
    size = (10, 1 + 3 * len(replays))
    figure, grid = pyplot.subplots(len(replays), figsize=size, layout="constrained", squeeze=False)
    for axes, found in zip(grid[:, 0], replays, strict=True):
        _draw(axes, found)
    grid[-1, 0].set_xlabel("requests since the first bundle went live")
    grid[0, 0].legend(frameon=False, ncols=4, loc="upper center")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    pyplot.close(figure)


def _draw(axes: Any, found: dict[str, Any]) -> None:
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
    axes.set_ylabel(f"{_bundles(found)}: accuracy over 250")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Entry point."""
    replays = recorded()
    picture(replays, RESULTS / "replay.svg")
    replace_marked(README, BEGIN, END, paragraph(replays))


if __name__ == "__main__":
    main()
