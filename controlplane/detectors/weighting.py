"""Means of all traffic from records that were not drawn with equal chances."""

import math
from collections.abc import Sequence


def weighted_mean(values: Sequence[float], inclusion: Sequence[float]) -> float:
    """Return the mean over the traffic that records were drawn from, NaN without any record.

    Args:
        values: What is averaged, one a record.
        inclusion: The probability that the record was made, in (0, 1].
    Raises:
        ValueError: A probability is outside (0, 1]: nothing can stand for what is never drawn.
    Source: Hájek's ratio form of the estimator of Horvitz and Thompson (1952): weights 1 / inclusion.
    """
    if any(not 0 < p <= 1 for p in inclusion):
        raise ValueError("an inclusion probability is outside (0, 1]")
    weight = math.fsum(1 / p for p in inclusion)
    return math.fsum(v / p for v, p in zip(values, inclusion, strict=True)) / weight if weight else math.nan
