"""What a credit desk asks of a score, and what an audit asks of decisions."""

import numpy as np

from controlplane.evals import metrics
from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Metric, register


def gini(answers: Answers, weights: Floats, _: str) -> Floats:
    """Accuracy ratio: twice the area under the ROC curve less one, shape [rounds]."""
    found = metrics.auc(answers.labels == answers.score_index, answers.probabilities[:, answers.score_index], weights)
    return np.asarray(2 * found - 1)


def ks(answers: Answers, weights: Floats, _: str) -> Floats:
    """Largest distance between the score's distributions of both outcomes (Kolmogorov-Smirnov), shape [rounds]."""
    scores = answers.probabilities[:, answers.score_index]
    order = np.argsort(scores, kind="stable")
    is_bad = (answers.labels == answers.score_index)[order]
    bad, good = weights[:, order] * is_bad, weights[:, order] * ~is_bad
    # Only where a run of equal scores ends do the distributions have a value.
    ends = np.append(np.diff(scores[order]) > 0, True)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.cumsum(bad, 1) / bad.sum(1, keepdims=True) - np.cumsum(good, 1) / good.sum(1, keepdims=True)
    return np.asarray(np.abs(gap[:, ends]).max(1))


def approval_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share approved, shape [rounds]; between slices, their quotient is the adverse impact ratio."""
    assert answers.decisions is not None
    return np.asarray(weights @ (answers.decisions == 0) / weights.sum(1))


def false_denial_rate(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of those who repay who are not approved, shape [rounds]; NaN where nobody repays."""
    assert answers.decisions is not None
    is_good = answers.labels != answers.score_index
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ (is_good & (answers.decisions != 0)) / (weights @ is_good))


register(Metric("gini", True, gini, "accuracy ratio of the score (credit risk)"))
register(Metric("ks", True, ks, "largest gap between both outcomes' score distributions (credit risk)"))
register(Metric("approval_rate", True, approval_rate, "share given the first decision (credit risk)", needs_cost=True))
register(
    Metric(
        "false_denial_rate", False, false_denial_rate, "share of who repays not approved (credit risk)", needs_cost=True
    )
)
