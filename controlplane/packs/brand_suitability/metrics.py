"""What brands and publishers each fear: a page at the floor that is let through, a harmless one that nobody may buy."""

import numpy as np

from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Metric, register


def floor_leak_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of the score label's cases not given the strictest decision, shape [rounds]; NaN without such cases."""
    return _share(answers, weights, answers.labels == answers.score_index, is_blocked=False)


def over_block_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of the other cases that are given the strictest decision, shape [rounds]; NaN without such cases."""
    return _share(answers, weights, answers.labels != answers.score_index, is_blocked=True)


def _share(answers: Answers, weights: Floats, among: np.ndarray, *, is_blocked: bool) -> Floats:
    assert answers.decisions is not None and answers.cost is not None
    found = (answers.decisions == answers.cost.shape[1] - 1) == is_blocked
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ (among & found) / (weights @ among))


register(Metric("floor_leak_rate", False, floor_leak_rate, "score label not given the last decision", needs_cost=True))
register(Metric("over_block_rate", False, over_block_rate, "other labels given the last decision", needs_cost=True))
