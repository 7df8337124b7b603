"""What an evaluation measures, in numpy; every metric takes resampling weights, so intervals cost one product.

``weights`` has shape [rounds, n]: how often each case was drawn. Without it, each case counts
once and results have one element.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HIGHER_IS_BETTER = {
    "accuracy": True,
    "macro_f1": True,
    "weighted_f1": True,
    "mean_cost": False,
    "false_safe_rate": False,
    "ece": False,
    "brier": False,
    "p99_ms": False,
}
_BINS = 10


def _weights(n: int, weights: Floats | None) -> Floats:
    return np.ones((1, n)) if weights is None else weights


def accuracy(labels: Ints, predicted: Ints, weights: Floats | None = None) -> Floats:
    """Share of cases whose label was predicted, shape [rounds]."""
    w = _weights(len(labels), weights)
    return np.asarray(w @ (labels == predicted) / w.sum(1))


def _f1_by_class(labels: Ints, predicted: Ints, classes: int, weights: Floats) -> tuple[Floats, Floats, Floats]:
    true = np.eye(classes)[labels]
    guess = np.eye(classes)[predicted]
    hits, support, guesses = weights @ (true * guess), weights @ true, weights @ guess
    total = support + guesses
    return 2 * hits / np.where(total == 0, 1, total), support, total


def macro_f1(labels: Ints, predicted: Ints, classes: int, weights: Floats | None = None) -> Floats:
    """Mean F1 over the classes that occur in labels or predictions, shape [rounds]."""
    f1, _, total = _f1_by_class(labels, predicted, classes, _weights(len(labels), weights))
    return np.asarray(f1.sum(1) / np.maximum(1, (total > 0).sum(1)))


def weighted_f1(labels: Ints, predicted: Ints, classes: int, weights: Floats | None = None) -> Floats:
    """Mean F1 weighted by how often each class is true, shape [rounds]."""
    f1, support, _ = _f1_by_class(labels, predicted, classes, _weights(len(labels), weights))
    return np.asarray((f1 * support).sum(1) / support.sum(1))


def mean_cost(labels: Ints, decisions: Ints, cost: Floats, weights: Floats | None = None) -> Floats:
    """Mean business cost of the decisions, shape [rounds]."""
    w = _weights(len(labels), weights)
    return np.asarray(w @ cost[labels, decisions] / w.sum(1))


def false_safe_rate(labels: Ints, decisions: Ints, score_index: int, weights: Floats | None = None) -> Floats:
    """Share of score-label cases given the least strict decision, the first listed; 0 without such cases."""
    w = _weights(len(labels), weights)
    relevant = labels == score_index
    total = w @ relevant
    return np.asarray(w @ (relevant & (decisions == 0)) / np.where(total == 0, 1, total))


def ece(labels: Ints, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Expected calibration error of the predicted label over ten equal-width bins (Naeini et al., 2015)."""
    w = _weights(len(labels), weights)
    confidence = probabilities.max(1)
    gap = confidence - (probabilities.argmax(1) == labels)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return np.asarray(np.abs(w @ (np.eye(_BINS)[bins] * gap[:, None])).sum(1) / w.sum(1))


def brier(labels: Ints, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared distance to the true label's unit vector, 0 to 2 (Brier, 1950)."""
    w = _weights(len(labels), weights)
    return np.asarray(w @ ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1) / w.sum(1))
