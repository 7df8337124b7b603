"""How far apart two samples of a number are, by their distribution functions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Members, Numbers, chunks


def kolmogorov_smirnov(reference: Sequence[float] | Numbers, live: Sequence[float] | Numbers) -> float:
    """Return the largest gap between two empirical distribution functions.

    Args:
        reference: Values from the window the engine was approved on, shape [n].
        live: Values from the present window, shape [m].
    Returns:
        The statistic in 0..1, 0 for equal samples; symmetric in its arguments.
    Raises:
        TooFewSamples: A window is empty.
        ValueError: A value is NaN, which has no place in an order.
    Source: Kolmogorov (1933), Smirnov (1939).
    """
    first, second = _ordered(reference, "reference"), _ordered(live, "live")
    places = np.concatenate([first, second])
    below_first = np.searchsorted(first, places, side="right") / len(first)
    below_second = np.searchsorted(second, places, side="right") / len(second)
    return float(np.max(np.abs(below_first - below_second)))


def resampled(values: Numbers, members: Members) -> Numbers:
    """Return the statistic between each window of one sample and the rest of it, shape [resamples]."""
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # equal values step together
    inside = members[0].sum()
    found = []
    for part in chunks(members[:, order]):
        steps = np.cumsum(part, axis=1, dtype=np.int32)[:, ends]
        gap = steps / inside - (ends + 1 - steps) / (len(values) - inside)
        found.append(np.abs(gap).max(axis=1))
    return np.concatenate(found)


def _ordered(values: Sequence[float] | Numbers, name: str) -> NDArray[np.float64]:
    found = np.sort(np.asarray(values, dtype=np.float64))
    if found.size == 0:
        raise TooFewSamples(f"{name} has no values, expected at least 1")
    if np.isnan(found[-1]):  # NaN sorts last.
        raise ValueError(f"{name} holds NaN, expected numbers")
    return found
