"""Paired bootstrap: the same redrawn cases for every model, so that differences keep their pairing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_NUMBERS = 4_000_000  # drawn at a time: 32 MB, whatever the number of cases

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval (Efron, 1979)."""

    low: float
    high: float


def resample_weights(n: int, rounds: int, seed: int) -> Floats:
    """Say how often each of ``n`` cases is drawn in each round, shape [rounds, n], rows adding up to ``n``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds).astype(np.float64)


def resampled(n: int, rounds: int, seed: int, value: Callable[[Floats], Floats]) -> Floats:
    """Compute ``value`` of ``resample_weights(n, rounds, seed)`` in bounded memory.

    ``value`` takes weights [some rounds, n] and returns [..., some rounds]; the rounds are put together again.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _MOST_NUMBERS // n)
    shares = np.full(n, 1 / n)
    parts = [
        value(rng.multinomial(n, shares, size=min(step, rounds - at)).astype(np.float64))
        for at in range(0, rounds, step)
    ]
    return np.concatenate(parts, axis=-1)


def interval(values: Floats, confidence: float) -> Interval:
    """Take the middle ``confidence`` of the rounds' values; rounds without a value are left out."""
    if np.isnan(values).all():
        return Interval(float("nan"), float("nan"))
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
