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
    from matplotlib import pyplot

    panels = [(name, found) for name, runs in result["shapes"].items() for found in runs]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.6 * len(panels) + 1, 6.4), layout="constrained", squeeze=False, sharex=True
    )
    for axis, (name, found) in zip(axes[0], panels, strict=True):
        bars = [
            (_label(group, row), row)
            for group, rows in found["questions"].items()
            for row in rows
            if row["has_graphs"] or not result["device"]["is_gpu"]
        ]
        places = range(len(bars))
        axis.barh(places, [row["p50_ms"] for _, row in bars], 0.75, color=OURS, label="p50 measured")
        axis.barh(places, [row["floor_ms"] for _, row in bars], 0.3, color=FLOOR, label="roofline floor")
        axis.plot([row["p99_ms"] for _, row in bars], places, "|", color=EAGER, markersize=9, label="p99 measured")
        axis.set_yticks(places, [label for label, _ in bars])
        axis.invert_yaxis()
        axis.set_xscale("log")
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
