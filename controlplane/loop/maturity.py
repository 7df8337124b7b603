"""When an outcome is due: delay curves from the deployment's own decisions, and what they say of a window."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.detectors.delay import DelayCurve, delay_curve
from controlplane.store import outcomes
from controlplane.store.store import Unit

DUE = 0.9  # of the outcomes that ever come: from then on a window's metrics mean something
LEAST = 30  # outcomes, for a curve
RECENT = 5_000  # decisions a curve is made of


@dataclass(frozen=True, slots=True)
class Maturity:
    """How outcomes of one specialist come in.

    Attributes:
        curve: All decisions, those still without an outcome counted for as long as they have waited.
        by_answer: The same by the label that was answered, which is known of every decision.
        by_truth: Delays by the true label, over decisions old enough for all of theirs to be in.
        due_s: The age by which ``DUE`` of the outcomes that ever come have come; None: too few came.
        matured: Decisions older than that.
        censored_share: Of those, the share without an outcome, which no metric over them sees.
    """

    curve: DelayCurve
    by_answer: dict[str, DelayCurve]
    by_truth: dict[str, DelayCurve]
    due_s: float | None
    matured: int
    censored_share: float


def maturity(unit: Unit, specialist: str, now_ms: int) -> Maturity:
    """Estimate delay curves over a specialist's recent decisions."""
    rows = outcomes.delays(unit, specialist, RECENT)
    curve = _curve(rows, now_ms)
    due = due_age(curve)
    old = [row for row in rows if due is not None and (now_ms - row.at_ms) / 1000 >= due]
    missing = sum(row.received_ms is None for row in old)
    return Maturity(
        curve=curve,
        by_answer=_by(rows, [row.answer for row in rows], now_ms),
        by_truth=_by([r for r in old if r.truth is not None], [r.truth for r in old if r.truth is not None], now_ms),
        due_s=due,
        matured=len(old),
        censored_share=missing / len(old) if old else 0.0,
    )


def due_age(curve: DelayCurve) -> float | None:
    """Return the age by which ``DUE`` of the outcomes that ever come have come; None where too few came."""
    if curve.known < LEAST or not curve.arrived:
        return None
    return curve.quantile(DUE * curve.arrived[-1])


def matured_before(unit: Unit, specialist: str, now_ms: int) -> int | None:
    """Return the moment before which outcomes of decisions are due, Unix milliseconds; None: nobody can say yet."""
    due = due_age(_curve(outcomes.delays(unit, specialist, RECENT), now_ms))
    return None if due is None else int(now_ms - 1000 * due)


def _curve(rows: Sequence[outcomes.Delay], now_ms: int) -> DelayCurve:
    came = [max(0.0, (row.received_ms - row.at_ms) / 1000) for row in rows if row.received_ms is not None]
    waiting = [max(0.0, (now_ms - row.at_ms) / 1000) for row in rows if row.received_ms is None]
    return delay_curve(came, waiting)


def _by(rows: Sequence[outcomes.Delay], labels: Sequence[str | None], now_ms: int) -> dict[str, DelayCurve]:
    groups: dict[str, list[outcomes.Delay]] = {}
    for row, label in zip(rows, labels, strict=True):
        groups.setdefault(label or "", []).append(row)
    return {label: _curve(found, now_ms) for label, found in sorted(groups.items())}
