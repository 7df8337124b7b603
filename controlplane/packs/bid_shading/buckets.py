"""Buckets of the least winning bid as a share of the price, and the decisions that stand for them.

A label says which share would have been enough, ``beyond`` that none of them was. A decision submits
the upper bound of its bucket. Cost is one less the surplus kept, as a share of the most that can be:
the cheapest expected decision is then the one of highest expected surplus.
"""

from collections.abc import Sequence

BOUNDS = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
LABELS = (*(f"{round(100 * bound)}" for bound in BOUNDS), "beyond")
DECISIONS = LABELS[:-1]
MOST = 1 - BOUNDS[0]  # of the price, kept by the lowest decision when it wins
_ROUNDING = 1e-9


def label_of(share: float) -> str:
    """Name the bucket of least winning bid / price; at a bound, the bid of that bound wins."""
    return next((label for label, bound in zip(LABELS, BOUNDS, strict=False) if share <= bound + _ROUNDING), LABELS[-1])


def bound_of(decision: str) -> float:
    """Return the share of the price that a decision submits."""
    return BOUNDS[DECISIONS.index(decision)]


def labels_left(submitted: float, *, is_won: bool) -> tuple[str, ...]:
    """Name the labels that a notice without the minimum bid to win leaves; ``submitted`` is a share of the price."""
    enough = tuple(label for label, bound in zip(LABELS, BOUNDS, strict=False) if bound <= submitted + _ROUNDING)
    # A win says that the submitted share was enough, a loss that it was not.
    return enough if is_won else tuple(label for label in LABELS if label not in enough)


def cost_matrix() -> list[list[float]]:
    """Return cost[label][decision], in 0..1."""
    return [[_cost(i, j) for j in range(len(DECISIONS))] for i in range(len(LABELS))]


def _cost(label: int, decision: int) -> float:
    is_won = label <= decision
    return round(1 - (1 - BOUNDS[decision]) / MOST, 6) if is_won else 1.0


def win_probability(probabilities: Sequence[float], decision: str) -> float:
    """Add up the buckets that a decision wins in."""
    return sum(probabilities[: DECISIONS.index(decision) + 1])
