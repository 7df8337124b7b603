"""What a person watching the demo sees: a timeline, and under it the present moment."""

import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controlplane.demo.traffic import Traffic

ARMS = {1: "primary", 2: "baseline", 3: "canary", 4: "holdback", 5: "override"}
COLOURS = {"pass": "green", "fail": "red", "not_yet": "yellow", "error": "magenta"}


class Screen:
    """Prints events as they happen; on a terminal also a live view, else plain lines only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._traffic: Traffic | None = None
        self._doing = ""
        self._progress: float | None = None
        self._gates: list[Any] = []
        self._weights = ""
        self.events: list[tuple[float, str]] = []
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def follow(self, traffic: Traffic) -> None:
        """Show this traffic's latencies."""
        self._traffic = traffic

    def event(self, text: str, style: str = "") -> None:
        """Add a line to the timeline."""
        self.events.append((self.elapsed_s, text))
        self._console.print(Text(f"{self.elapsed_s:6.1f} s  ", "dim") + Text(text, style), soft_wrap=True)

    def command(self, *arguments: str) -> None:
        """Show a command as the reader would type it."""
        shown = " ".join(f'"{a}"' if " " in a else a for a in arguments)
        self._console.print(Text(f"          $ interlock {shown}", "cyan"), soft_wrap=True)

    def doing(self, text: str, progress: float | None = None) -> None:
        """Say what is going on now."""
        self._doing, self._progress = text, progress

    def gates(self, readings: list[Any], weights: str) -> None:
        """Show gate readings under the timeline."""
        self._gates, self._weights = readings, weights

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._doing or "…", "bold")]
        if self._progress is not None:
            bar = Table.grid()
            bar.add_row(ProgressBar(total=1.0, completed=self._progress, width=60))
            parts.append(bar)
        if self._traffic is not None:
            recent = self._traffic.recent()
            arms = Counter(ARMS.get(arm, "?") for _, _, arm, _ in recent)
            shares = ", ".join(f"{name} {n / len(recent):.0%}" for name, n in sorted(arms.items())) if recent else ""
            seen = self._traffic.seen
            parts.append(
                Text(
                    f"callers: {seen.requests} requests, {seen.errors} errors, "
                    f"{sum(seen.fallbacks.values())} fallbacks; "
                    f"last seconds p50 {self._traffic.percentile(50, recent=True):.1f} ms, "
                    f"p99 {self._traffic.percentile(99, recent=True):.1f} ms; {shares}"
                )
            )
        if self._gates:
            parts.append(gate_table(self._gates, self._weights))
        return Panel(Group(*parts), title="now", border_style="blue")


def gate_table(readings: list[Any], title: str) -> Table:
    """Draw gate readings."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("gate", "verdict", "value", "interval", "limit", "sample", "missing"):
        table.add_column(column, justify="left" if column in ("gate", "verdict") else "right")
    for r in readings:
        verdict = Text(r["verdict"], COLOURS.get(r["verdict"], ""))
        interval = f"{r['lower']:+.3f} … {r['upper']:+.3f}"
        missing = str(r["sample_missing"]) if int(r["sample_missing"]) else ""
        table.add_row(
            r["gate"], verdict, f"{r['value']:+.3f}", interval, f"{r['limit']:.3f}", str(r["sample"]), missing
        )
    return table
