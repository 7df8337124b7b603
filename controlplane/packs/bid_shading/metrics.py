"""What a bidder asks of a shader, from the buckets of the answers."""

import numpy as np

from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Metric, register
from controlplane.packs.bid_shading.buckets import MOST


def surplus(answers: Answers, weights: Floats, _: str) -> Floats:
    """Mean share of the price kept, shape [rounds]: 0 where a bid loses."""
    kept = MOST * (1 - answers.costs)
    return np.asarray(weights @ kept / weights.sum(1))


def win_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of auctions won by the decisions, shape [rounds]."""
    assert answers.decisions is not None
    return np.asarray(weights @ (answers.labels <= answers.decisions) / weights.sum(1))


register(Metric("surplus", True, surplus, "share of the price kept, over all auctions (bid shading)", needs_cost=True))
register(Metric("win_rate", True, win_rate, "share of auctions won (bid shading)", needs_cost=True))
