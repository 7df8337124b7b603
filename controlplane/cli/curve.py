"""Loss curves, in a terminal and as SVG."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 64, 10
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row from above, then column


def drawn(losses: Sequence[float], every: int, looks: Sequence[Mapping[str, float]]) -> str:
    """Draw training losses as dots over steps, the development losses listed below.

    ``every`` is how many steps one loss stands for.
    """
    if len(losses) < 2:
        return f"  one step, loss {losses[0]:.3f}"
    high, low = max(losses), min(losses)
    span = (high - low) or 1.0
    cells = [[0] * WIDTH for _ in range(HEIGHT)]
    for i, loss in enumerate(losses):
        x = round(i * (2 * WIDTH - 1) / max(1, len(losses) - 1))
        y = round((high - loss) / span * (4 * HEIGHT - 1))
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    lines = ["".join(chr(_BRAILLE + dots) for dots in row) for row in cells]
    labels = [f"{high:7.3f} "] + [" " * 8] * (HEIGHT - 2) + [f"{low:7.3f} "]
    steps = len(losses) * every
    text = "\n".join(label + line for label, line in zip(labels, lines, strict=True))
    text += f"\n{'':8}step 1{f'step {steps}':>{WIDTH - 6}}"
    for look in looks:
        text += (
            f"\n  step {int(look['step'])}: development loss {look['loss']:.3f}, accuracy {look['accuracy']:.3f}, "
            f"macro-F1 {look['macro_f1']:.3f}"
        )
    return text


def svg(losses: Sequence[float], every: int, looks: Sequence[Mapping[str, float]]) -> str:
    """Draw training losses as a line and development losses as points, with axes."""
    width, height, left, below = 720, 320, 60, 40
    steps = max(1, len(losses) * every)
    high = max([*losses, *(look["loss"] for look in looks)])
    top = high * 1.05 or 1.0

    def place(step: float, loss: float) -> tuple[float, float]:
        return left + (width - left - 20) * step / steps, (height - below) - (height - below - 20) * loss / top

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place((i + 1) * every, loss) for i, loss in enumerate(losses)))
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#c0392b"/>'
        for x, y in (place(look["step"], look["loss"]) for look in looks)
    )
    marks = "".join(
        f'<text x="{left - 6}" y="{place(0, top * k / 4)[1] + 4:.1f}" text-anchor="end">{top * k / 4:.2f}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{place(0, top * k / 4)[1]:.1f}" y2="{place(0, top * k / 4)[1]:.1f}" '
        'stroke="#ddd"/>'
        for k in range(5)
    )
    names = "".join(
        f'<text x="{place(steps * k / 4, 0)[0]:.1f}" y="{height - below + 16}" text-anchor="middle">'
        f"{escape(str(round(steps * k / 4)))}</text>"
        for k in range(5)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{marks}{names}'
        f'<polyline points="{line}" fill="none" stroke="#2c6fbb" stroke-width="1.5"/>{dots}'
        f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">step</text>'
        f'<text x="{left}" y="14">loss: line in training, points on the development part</text></svg>\n'
    )
