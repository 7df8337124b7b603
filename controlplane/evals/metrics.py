"""What an evaluation measures, in numpy; every metric takes resampling weights, so intervals cost one product.

``weights`` has shape [rounds, n]: how often each case was drawn. Without it, each case counts
once and results have one element.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BINS = 10


def _weights(n: int, weights: Floats | None) -> Floats:
    return np.ones((1, n)) if weights is None else weights


def _share(part: Floats, whole: Floats) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0), dtype=np.float64)


def accuracy(labels: Ints, predicted: Ints, weights: Floats | None = None) -> Floats:
    """Share of cases whose label was predicted, shape [rounds]."""
    w = _weights(len(labels), weights)
    return _share(w @ (labels == predicted), w.sum(1))


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
    return _share((f1 * support).sum(1), support.sum(1))


def mean_cost(labels: Ints, decisions: Ints, cost: Floats, weights: Floats | None = None) -> Floats:
    """Mean business cost of the decisions, shape [rounds]."""
    w = _weights(len(labels), weights)
    return _share(w @ cost[labels, decisions], w.sum(1))


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
    return _share(np.abs(w @ (np.eye(_BINS)[bins] * gap[:, None])).sum(1), w.sum(1))


def brier(labels: Ints, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared distance to the true label's unit vector, 0 to 2 (Brier, 1950)."""
    w = _weights(len(labels), weights)
    return _share(w @ ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1), w.sum(1))


def log_loss(labels: Ints, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean negative logarithm of the true label's probability, in nats; probabilities below 1e-15 count as 1e-15."""
    w = _weights(len(labels), weights)
    said = np.clip(probabilities[np.arange(len(labels)), labels], 1e-15, 1.0)
    return _share(w @ -np.log(said), w.sum(1))


def f1_of(labels: Ints, predicted: Ints, which: int, weights: Floats | None = None) -> Floats:
    """F1 of one label, shape [rounds]; 0 where it is never right, NaN where it neither occurs nor is predicted."""
    w = _weights(len(labels), weights)
    true, guess = labels == which, predicted == which
    return _share(2 * (w @ (true & guess)), w @ true + w @ guess)


def recall_of(labels: Ints, predicted: Ints, which: int, weights: Floats | None = None) -> Floats:
    """Share of one label's cases that were predicted as it, shape [rounds]; NaN without such cases."""
    w = _weights(len(labels), weights)
    true = labels == which
    return _share(w @ (true & (predicted == which)), w @ true)


def precision_of(labels: Ints, predicted: Ints, which: int, weights: Floats | None = None) -> Floats:
    """Share of the predictions of one label that were right, shape [rounds]; NaN without such predictions."""
    w = _weights(len(labels), weights)
    guess = predicted == which
    return _share(w @ (guess & (labels == which)), w @ guess)


def _curve(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Count positives and negatives at or above each distinct score, highest first, shapes [rounds, scores]."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are one threshold
    up = weights[:, order] * positive[order]
    down = weights[:, order] * ~positive[order]
    return np.cumsum(up, 1)[:, last], np.cumsum(down, 1)[:, last]


def auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats | None = None) -> Floats:
    """Chance that a positive scores above a negative, ties half, shape [rounds]; NaN without one of either.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil, 1982).
    """
    up, down = _curve(positive, scores, _weights(len(scores), weights))
    before = up - np.diff(up, axis=1, prepend=0) / 2
    return _share((np.diff(down, axis=1, prepend=0) * before).sum(1), up[:, -1] * down[:, -1])


def average_precision(positive: NDArray[np.bool_], scores: Floats, weights: Floats | None = None) -> Floats:
    """Precision averaged over the positives as the threshold falls, shape [rounds]; NaN without positives."""
    up, down = _curve(positive, scores, _weights(len(scores), weights))
    total = up + down
    precision = np.divide(up, total, out=np.zeros_like(up), where=total > 0)
    return _share((np.diff(up, axis=1, prepend=0) * precision).sum(1), up[:, -1])


def recall_at_fpr(positive: NDArray[np.bool_], scores: Floats, rate: float, weights: Floats | None = None) -> Floats:
    """Most positives found while at most ``rate`` of the negatives are flagged, as a share of the positives."""
    up, down = _curve(positive, scores, _weights(len(scores), weights))
    most = np.where(down <= rate * down[:, -1:] + 1e-12, up, 0.0).max(1)
    return np.where(down[:, -1] > 0, _share(most, up[:, -1]), np.nan)
