"""What a fraud desk asks: how much of the money, and how much with the analysts there are."""

import numpy as np

from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Metric, register

AMOUNT = ("amount", "Amount")  # columns that hold what a payment is worth


def value_recall(answers: Answers, weights: Floats, _: str) -> Floats:
    """Share of the fraudulent money that was not simply let through, shape [rounds]; NaN without amounts."""
    column = next((name for name in AMOUNT if name in answers.columns), None)
    if column is None or answers.decisions is None:
        return np.full(len(weights), np.nan)
    amount = np.nan_to_num(np.array([float(value) for value in answers.columns[column]]))
    money = amount * (answers.labels == answers.score_index)
    total = weights @ money
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ (money * (answers.decisions > 0)) / total)


def alert_recall(answers: Answers, weights: Floats, budget: str) -> Floats:
    """Share of fraud among the highest scores when only ``budget`` of all cases can be looked at, shape [rounds]."""
    order = np.argsort(-answers.probabilities[:, answers.score_index], kind="stable")
    sorted_weights = weights[:, order]
    seen = np.cumsum(sorted_weights, axis=1) - sorted_weights < float(budget) * sorted_weights.sum(1, keepdims=True)
    fraud = (answers.labels == answers.score_index)[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sorted_weights * seen * fraud).sum(1) / (sorted_weights * fraud).sum(1))


register(Metric("value_recall", True, value_recall, "share of the fraudulent money caught (fraud)", needs_cost=True))
register(
    Metric("alert_recall", True, alert_recall, "share of fraud in the highest scores that can be looked at", "rate")
)
