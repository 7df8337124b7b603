"""Small pictures as SVG text, for pages that must stand on their own."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 220, 64, 34, 14, 14
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

Points = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Points],
    *,
    x_labels: tuple[str, str],
    y_label: str,
    bands: dict[str, Sequence[tuple[float, float, float]]] | None = None,
    marks: Sequence[tuple[float, float]] = (),
    bounds: tuple[float, float] | None = None,
    level: float | None = None,
) -> str:
    """Draw lines over a common axis.

    Args:
        series: Points (x, y) by name; drawn in this order, named below the picture.
        x_labels: What stands at both ends of the x axis.
        bands: Shaded (x, low, high) by name.
        marks: Points ringed in red.
        bounds: Of the y axis; else those of what is drawn.
        level: Where a dashed line runs across.
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
    if level is not None:
        ends = [at(x, level).split(",") for x in (first, last)]
        drawn.append(
            f"<line x1='{ends[0][0]}' x2='{ends[1][0]}' y1='{ends[0][1]}' y2='{ends[1][1]}' stroke='#18181b' "
            "stroke-dasharray='5'/>"
        )
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


def reliability(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Draw how often models were right against how sure they were; on the diagonal, a model knows itself.

    Args:
        curves: Points (sure, right, cases), both in 0..1, by model; a dot's area grows with its cases.
    """
    size, left = 300, 46
    drawn = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + tick * size, 10 + (1 - tick) * size
        drawn.append(f"<line x1='{left}' x2='{left + size}' y1='{y}' y2='{y}' stroke='#e4e4e7'/>")
        drawn.append(f"<text x='{left - 6}' y='{y + 4}' text-anchor='end'>{tick:.0%}</text>")
        drawn.append(f"<text x='{x}' y='{size + 26}' text-anchor='middle'>{tick:.0%}</text>")
    drawn.append(
        f"<line x1='{left}' x2='{left + size}' y1='{10 + size}' y2='10' stroke='#71717a' stroke-dasharray='4'/>"
    )
    drawn.append(f"<text x='{left + size / 2}' y='{size + 42}' text-anchor='middle'>how sure it was</text>")
    turned = f"transform='rotate(-90 10 {10 + size / 2})' text-anchor='middle'"
    drawn.append(f"<text x='10' y='{10 + size / 2}' {turned}>how often it was right</text>")
    for i, points in enumerate(curves.values()):
        colour, most = COLOURS[i % 8], max((n for _, _, n in points), default=1)
        places = [(left + sure * size, 10 + (1 - right) * size, n) for sure, right, n in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        drawn.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.5' opacity='.7'/>")
        drawn += [
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{2.5 + 6 * math.sqrt(n / most):.1f}' fill='{colour}' opacity='.65'/>"
            for x, y, n in places
        ]
    width = left + size + 24
    svg = f"<svg class='square' viewBox='0 0 {width} {size + 50}' role='img'>{''.join(drawn)}</svg>"
    return f"{svg}{legend(list(curves))}"


def grid(rows: Sequence[str], columns: Sequence[str], counts: dict[tuple[str, str], int], row_name: str) -> str:
    """Write a table of counts, darker where there are more; equal names, where nothing changes, stand out green."""
    total = sum(counts.values()) or 1
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = []
    for row in rows:
        cells = []
        for column in columns:
            n = counts.get((row, column), 0)
            rgb = "5,150,105" if row == column else "220,38,38"
            shade = f"background:rgba({rgb},{0.06 + 0.7 * n / total:.2f})" if n else ""
            cells.append(f"<td class='cell' style='{shade}'>{n:,}<br><small>{n / total:.1%}</small></td>")
        body.append(f"<tr><th>{html.escape(row)}</th>{''.join(cells)}</tr>")
    return f"<table class='grid'><tr><th>{html.escape(row_name)}</th>{head}</tr>{''.join(body)}</table>"


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
