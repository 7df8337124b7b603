"""Measured against the floor: one panel a model and precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS, FLOOR, EAGER = "#1f6f8b", "#b8bfc6", "#d1603d"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "interlock", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    from matplotlib import pyplot, ticker

    panels = [(name, found) for name, runs in result["shapes"].items() for found in runs]
    most = max(sum(map(len, found["questions"].values())) for _, found in panels)
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(4.6 * len(panels) + 1, min(6.4, 2.0 + 0.3 * most)),
        layout="constrained",
        squeeze=False,
        sharex=True,
    )
    for axis, (name, found) in zip(axes[0], panels, strict=True):
        bars = [
            (_label(group, row), row)
            for group, rows in found["questions"].items()
            for row in rows
            if row["has_graphs"] or not result["device"]["is_gpu"]
        ]
        places = range(len(bars))
        floors, middles, tails = ([row[f"{name}_ms"] for _, row in bars] for name in ("floor", "p50", "p99"))
        # Places on a log axis, not bars: a bar's length would depend on where the axis happens to begin.
        axis.hlines(places, floors, tails, color=FLOOR, linewidth=1.5, zorder=1)
        axis.plot(floors, places, "D", color="white", markeredgecolor=FLOOR, markersize=6, label="roofline floor")
        axis.plot(middles, places, "o", color=OURS, markersize=7, label="p50 measured")
        axis.plot(tails, places, "|", color=EAGER, markersize=11, markeredgewidth=2, label="p99 measured")
        axis.set_yticks(places, [label for label, _ in bars])
        axis.margins(y=min(0.45, 1 / len(bars)))
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.set_title(f"{name}, {found['dtype']}: ms a decision (log)", fontsize=9)
    figure.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(f"{result['device']['name']}, random weights, commit {result['commit']}", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _label(group: str, row: Mapping[str, Any]) -> str:
    size = f"{row['tokens']} tok × {row['batch']}"
    if "tokens" in group:
        return f"{size}, kept" if row["is_cached"] else size
    return f"{size}, {row['adapters']} adapters, head {row['head']}"
