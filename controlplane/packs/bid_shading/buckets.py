"""Buckets of the least winning bid as a share of the price, and the decisions that stand for them.

A label says which share would have been enough, ``beyond`` that none of them was. A decision submits
the upper bound of its bucket. Cost is one less the surplus kept, as a share of the most that can be:
the cheapest expected decision is then the one of highest expected surplus.
"""

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
    if is_won:
        # What would have won is at most what was submitted, which may lie inside a bucket.
        return tuple(
            label for label, below in zip(LABELS, (-1.0, *BOUNDS), strict=True) if below + _ROUNDING < submitted
        )
    return tuple(label for label, bound in zip(DECISIONS, BOUNDS, strict=True) if submitted + _ROUNDING < bound) + (
        LABELS[-1],
    )
