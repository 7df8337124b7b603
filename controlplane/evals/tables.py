"""What is told of models' answers to labelled cases: metrics with intervals, differences, slices, calibration."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from controlplane.evals.bootstrap import interval, resampled
from controlplane.evals.labelled import LabelledRun
from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers, Named

LEAST_SLICE = 20  # cases; a smaller slice is counted and not judged
BINS = 10


def with_intervals(asked: LabelledRun, named: Sequence[Named], answers: Answers) -> dict[str, Any]:
    """Return every metric's value, and between what it lies in most resamplings."""
    n = len(answers.labels)
    drawn = resampled(
        n, asked.rounds, asked.seed, lambda weights: np.stack([one.value(answers, weights) for one in named])
    )
    found = {}
    for one, rounds in zip(named, drawn, strict=True):
        span = interval(rounds, asked.confidence)
        found[one.text] = {"value": _known(one.value(answers)[0]), "low": _known(span.low), "high": _known(span.high)}
    return found


def advantages(asked: LabelledRun, named: Sequence[Named], ours: Answers, other: Answers) -> dict[str, Any]:
    """Return how much better the bundle is, positive where it is, whichever way a metric points."""
    both = [one for one in named if one.suits(other)]

    def advantage(weights: Floats | None) -> Floats:
        signs = [1 if one.higher_is_better else -1 for one in both]
        values = [one.value(ours, weights) - one.value(other, weights) for one in both]
        return np.stack([sign * value for sign, value in zip(signs, values, strict=True)])

    drawn = resampled(len(ours.labels), asked.rounds, asked.seed, advantage)
    found = {}
    for one, value, rounds in zip(both, advantage(None)[:, 0], drawn, strict=True):
        span = interval(rounds, asked.confidence)
        found[one.text] = {"advantage": _known(value), "low": _known(span.low), "high": _known(span.high)}
    return found


def by_slice(
    asked: LabelledRun, named: Sequence[Named], answers: Answers, values: Sequence[str]
) -> list[dict[str, Any]]:
    """Judge the cases of every value of a column, given as ``values``; the most frequent first."""
    found = []
    for value, n in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])):
        index = np.flatnonzero(np.array([one == value for one in values]))
        shown = with_intervals(asked, named, answers.take(index)) if n >= LEAST_SLICE else {}
        found.append({"value": value, "cases": n, "metrics": shown})
    return found


def calibration(answers: Answers) -> list[dict[str, Any]]:
    """Compare said and found in ten bins of the predicted label's probability."""
    said = answers.probabilities.max(1)
    right = answers.predicted == answers.labels
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    found = []
    for i in range(BINS):
        inside = bins == i
        weight = answers.case_weights[inside]
        found.append(
            {
                "from": i / BINS,
                "to": (i + 1) / BINS,
                "cases": int(inside.sum()),
                "said": _known(np.average(said[inside], weights=weight)) if inside.any() else None,
                "right": _known(np.average(right[inside], weights=weight)) if inside.any() else None,
            }
        )
    return found


def confusion(answers: Answers) -> list[list[int]]:
    """Count cases, rows by true label, columns by prediction."""
    counts = np.zeros((len(answers.names), len(answers.names)), dtype=np.int64)
    np.add.at(counts, (answers.labels, answers.predicted), 1)
    return [[int(n) for n in row] for row in counts]


def _known(value: Any) -> float | None:
    """Return a number JSON can hold; None for a metric without a value on these cases."""
    return float(value) if np.isfinite(value) else None
