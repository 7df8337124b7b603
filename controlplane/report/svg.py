"""Small pictures as SVG text, for pages that must stand on their own."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 220, 64, 34, 14, 14
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

Points = Sequence[tuple[float, float]]


def lines(
    series: dict[str, Points],
    *,
    x_labels: tuple[str, str],
    y_label: str,
    bands: dict[str, Sequence[tuple[float, float, float]]] | None = None,
    marks: Sequence[tuple[float, float]] = (),
    bounds: tuple[float, float] | None = None,
) -> str:
    """Draw lines over a common axis.

    Args:
        series: Points (x, y) by name; drawn in this order, named below the picture.
        x_labels: What stands at both ends of the x axis.
        bands: Shaded (x, low, high) by name.
        marks: Points ringed in red.
        bounds: Of the y axis; else those of what is drawn.
    """
    shaded = bands or {}
    points = [p for found in series.values() for p in found if math.isfinite(p[1])]
    edges = [y for found in shaded.values() for _, low, high in found for y in (low, high) if math.isfinite(y)]
    if not points and not edges:
        return "<p class='none'>nothing to draw yet</p>"
    xs = [x for x, _ in points] + [x for found in shaded.values() for x, _, _ in found]
    ys = [y for _, y in points] + edges
    low, high = bounds or (min(ys), max(ys))
    high = high if high > low else low + 1
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(x: float, y: float) -> str:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        up = TOP + (1 - (min(max(y, low), high) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{up:.1f}"

    drawn = [_axes(low, high, x_labels, y_label)]
    for i, found_band in enumerate(shaded.values()):
        outline = [at(x, b) for x, _, b in found_band] + [at(x, a) for x, a, _ in reversed(found_band)]
        drawn.append(f"<polygon points='{' '.join(outline)}' fill='{COLOURS[i % 8]}' opacity='.16'/>")
    for i, found in enumerate(series.values()):
        kept = [at(x, y) for x, y in found if math.isfinite(y)]
        colour = COLOURS[i % 8]
        drawn.append(f"<polyline points='{' '.join(kept)}' fill='none' stroke='{colour}' stroke-width='2'/>")
        if len(kept) <= 40:
            drawn += [f"<circle cx='{p.split(',')[0]}' cy='{p.split(',')[1]}' r='2.5' fill='{colour}'/>" for p in kept]
    for x, y in marks:
        across, up = at(x, y).split(",")
        drawn.append(f"<circle cx='{across}' cy='{up}' r='7' fill='none' stroke='#dc2626' stroke-width='2'/>")
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{''.join(drawn)}</svg>{legend(list(series))}"


@dataclass(frozen=True, slots=True)
class Span:
    """One row of ``spans``: a value, the interval around it, and perhaps the limit it is held against."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    colour: str = COLOURS[0]


def spans(rows: Sequence[Span], *, bounds: tuple[float, float] | None = None) -> str:
    """Draw each row's value as a dot on its interval, its limit as a red tick, all on one scale."""
    said = [v for r in rows for v in (r.value, r.low, r.high, r.limit) if v is not None and math.isfinite(v)]
    if not said:
        return "<p class='none'>nothing to draw yet</p>"
    low, high = bounds or (min(said), max(said))
    spare = (high - low) * 0.06 or 0.5
    low, high = low - spare, high + spare
    left, step = 210, 22

    def at(value: float) -> str:
        return f"{left + (min(max(value, low), high) - low) / (high - low) * (WIDTH - left - RIGHT):.1f}"

    height = step * len(rows) + 26
    drawn = []
    for value in (low + spare, (low + high) / 2, high - spare):
        drawn.append(f"<line x1='{at(value)}' x2='{at(value)}' y1='4' y2='{height - 20}' stroke='#e4e4e7'/>")
        drawn.append(f"<text x='{at(value)}' y='{height - 6}' text-anchor='middle'>{value:.3g}</text>")
    for i, row in enumerate(rows):
        y = step * i + 16
        drawn.append(f"<text x='{left - 10}' y='{y + 4}' text-anchor='end'>{html.escape(row.name)}</text>")
        if row.low is not None and row.high is not None:
            ends = f"x1='{at(row.low)}' x2='{at(row.high)}' y1='{y}' y2='{y}'"
            drawn.append(f"<line {ends} stroke='{row.colour}' stroke-width='3' opacity='.45'/>")
        if row.limit is not None:
            ends = f"x1='{at(row.limit)}' x2='{at(row.limit)}' y1='{y - 8}' y2='{y + 8}'"
            drawn.append(f"<line {ends} stroke='#dc2626' stroke-width='2'/>")
        if math.isfinite(row.value):
            drawn.append(f"<circle cx='{at(row.value)}' cy='{y}' r='4' fill='{row.colour}'/>")
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img'>{''.join(drawn)}</svg>"


def legend(names: Sequence[str]) -> str:
    """Name colours in the order pictures use them."""
    said = (
        f"<span><i style='background:{COLOURS[i % 8]}'></i>{html.escape(name)}</span>" for i, name in enumerate(names)
    )
    return f"<div class='legend'>{''.join(said)}</div>"


def _axes(low: float, high: float, x_labels: tuple[str, str], y_label: str) -> str:
    drawn = []
    for share in (0.0, 0.5, 1.0):
        up = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
        drawn.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{up}' y2='{up}' stroke='#d4d4d8'/>")
        value = low + share * (high - low)
        drawn.append(f"<text x='{LEFT - 8}' y='{up + 4}' text-anchor='end'>{value:.3g}</text>")
    drawn.append(f"<text x='{LEFT}' y='{HEIGHT - 10}'>{html.escape(x_labels[0])}</text>")
    drawn.append(f"<text x='{WIDTH - RIGHT}' y='{HEIGHT - 10}' text-anchor='end'>{html.escape(x_labels[1])}</text>")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"transform='rotate(-90 14 {middle})' text-anchor='middle'"
    drawn.append(f"<text x='14' y='{middle}' {turned}>{html.escape(y_label)}</text>")
    return "".join(drawn)
