"""Where a statistic becomes an alarm, learned from windows of the same traffic compared with itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from controlplane.detectors import TooFewSamples

RESAMPLES = 60
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The value a statistic exceeds by chance at most ``false_alarm_rate`` of the time, on unchanged traffic."""

    value: float
    false_alarm_rate: float
    resamples: int


def conformal_quantile(scores: Sequence[float], false_alarm_rate: float) -> float:
    """Return the smallest score that a further, exchangeable score exceeds with at most the stated probability.

    Raises:
        ValueError: The rate is not in 0..1, a score is NaN, or there are too few scores for so rare an alarm.
    Source: split conformal quantile, rank ceil((n + 1)(1 - rate)) (Vovk et al., 2005).
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}, expected between 0 and 1")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN, expected numbers")
    # Rounded first: (n + 1)(1 - rate) is often a whole number that floating point misses from above.
    rank = math.ceil(round((len(scores) + 1) * (1 - false_alarm_rate), 9))
    if rank > len(scores):
        needed = math.ceil(round(1 / false_alarm_rate, 9)) - 1
        raise ValueError(f"{len(scores)} scores cannot bound a rate of {false_alarm_rate}, expected at least {needed}")
    return sorted(scores)[rank - 1]


def learn_threshold(
    statistic: Callable[[Sequence[Item], Sequence[Item]], float],
    reference: Sequence[Item],
    window: int,
    false_alarm_rate: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Threshold:
    """Compare a deployment's reference with itself and set the threshold above what chance brings.

    Each round draws ``window`` items as if they were live and compares them with the items left over, so
    both sides are disjoint. Rounds share a pool and are exchangeable only approximately; comparing
    with less than the whole pool makes the statistic noisier, and so the threshold higher.

    Args:
        statistic: Takes reference items and live items.
        window: Items of a live window that the threshold will be used for.
        false_alarm_rate: Alarms per window on unchanged traffic, at most.
    Raises:
        TooFewSamples: The pool holds fewer than two windows.
        ValueError: As ``conformal_quantile``.
    """
    if window < 1 or len(reference) < 2 * window:
        raise TooFewSamples(f"reference has {len(reference)} items, expected at least two windows of {window}")
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        order = rng.permutation(len(reference))
        live = [reference[i] for i in order[:window]]
        scores.append(float(statistic([reference[i] for i in order[window:]], live)))
    return Threshold(conformal_quantile(scores, false_alarm_rate), false_alarm_rate, resamples)
