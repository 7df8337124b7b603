"""What a bidder asks of a shader, from the buckets of the answers."""

import numpy as np

from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Metric, register
from controlplane.packs.bid_shading.buckets import BOUNDS, MOST

DECILES = 10


def surplus(answers: Answers, weights: Floats, _: str) -> Floats:
    """Mean share of the price kept, shape [rounds]: 0 where a bid loses."""
    kept = MOST * (1 - answers.costs)
    return np.asarray(weights @ kept / weights.sum(1))


def win_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of auctions won by the decisions, shape [rounds]."""
    assert answers.decisions is not None
    return np.asarray(weights @ (answers.labels <= answers.decisions) / weights.sum(1))


def under_floor(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of bids below a floor that was told and that some share of the price reaches, shape [rounds]; NaN without.

    Such a bid wins nothing, whatever others do.
    """
    floors = np.asarray(answers.columns.get("floor_share", np.full(len(answers.labels), np.nan)))
    assert answers.decisions is not None
    told = (floors > 0) & (floors <= BOUNDS[-1])
    under = told & (np.asarray(BOUNDS)[answers.decisions] < floors)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ under / (weights @ told))


def _said(answers: Answers) -> tuple[Floats, Floats]:
    """Return the probability of winning with the decision that was taken, and whether it won, shape [n] both."""
    assert answers.decisions is not None
    sums = np.cumsum(answers.probabilities, axis=1)
    said = sums[np.arange(len(answers.labels)), answers.decisions]
    return np.clip(said, 1e-6, 1 - 1e-6), (answers.labels <= answers.decisions).astype(np.float64)


def win_log_loss(answers: Answers, weights: Floats, _: str) -> Floats:
    """Log loss of the win probability at the decision taken, in nats, shape [rounds]."""
    said, won = _said(answers)
    losses = -(won * np.log(said) + (1 - won) * np.log(1 - said))
    return np.asarray(weights @ losses / weights.sum(1))


def win_calibration(answers: Answers, weights: Floats, _: str) -> Floats:
    """Mean distance between said and found share of wins over ten equally full bins of what was said, [rounds]."""
    said, won = _said(answers)
    order = np.argsort(said, kind="stable")
    total = np.zeros(len(weights))
    for part in np.array_split(order, DECILES):
        inside = weights[:, part]
        # Both sums have the same weights, so their difference needs no mean of its own.
        total += np.abs(inside @ said[part] - inside @ won[part])
    return np.asarray(total / weights.sum(1))


register(Metric("surplus", True, surplus, "share of the price kept, over all auctions (bid shading)", needs_cost=True))
register(Metric("win_rate", True, win_rate, "share of auctions won (bid shading)", needs_cost=True))
register(Metric("under_floor", False, under_floor, "bids below the floor told (bid shading)", needs_cost=True))
register(
    Metric(
        "win_log_loss", False, win_log_loss, "nats, of winning with what is submitted (bid shading)", needs_cost=True
    )
)
register(
    Metric("win_calibration", False, win_calibration, "said less found wins, by decile (bid shading)", needs_cost=True)
)
