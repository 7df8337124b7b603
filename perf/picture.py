"""A picture of one run: who does how much, who answers how late, and what each state costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.results import SERVERS, STATES

OURS, OTHERS, TAIL = "#1f6f8b", "#b8bfc6", "#d1603d"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "interlock", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 1.25), layout="constrained")
    names = [name for name in SERVERS if result["throughput_rps"].get(name) is not None]
    _bars(axes[0], names, result["throughput_rps"], "calls/s at 64 streams, one core")
    _bars(axes[1], names, result["p99_ms_at_2000rps"], "p99 at 2,000 calls/s, ms (log)")
    _log(axes[1])
    states = list(STATES)
    for key, offset, colour in (("p50_ms", -0.2, OURS), ("p99_ms", 0.2, TAIL)):
        values = [result["states"][name][key] for name in states]
        places = [place + offset for place in range(len(states))]
        axes[2].barh(places, values, 0.38, color=colour, label=key.removesuffix("_ms"))
    axes[2].set_yticks(range(len(states)), [name.replace("_", " ") for name in states])
    _log(axes[2])
    axes[2].invert_yaxis()
    axes[2].set_title(f"Interlock in eight states, {result['states_rps']:,.0f} calls/s, ms (log)", fontsize=9)
    axes[2].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axis: Any, names: list[str], found: Mapping[str, Any], title: str) -> None:
    middle = [found[name]["median"] for name in names]
    below = [found[name]["median"] - found[name]["min"] for name in names]
    above = [found[name]["max"] - found[name]["median"] for name in names]
    colours = [OURS if name.startswith("interlock") else OTHERS for name in names]
    axis.barh(range(len(names)), middle, xerr=(below, above), color=colours, ecolor="#444444", error_kw={"lw": 1})
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)


def _log(axis: Any) -> None:
    """Scale by powers, with plain numbers at one, two and five of each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
