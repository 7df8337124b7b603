"""Paired bootstrap: the same redrawn cases for every model, so that differences keep their pairing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval (Efron, 1979)."""

    low: float
    high: float


def resample_weights(n: int, rounds: int, seed: int) -> NDArray[np.float64]:
    """Say how often each of ``n`` cases is drawn in each round, shape [rounds, n], rows adding up to ``n``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=rounds).astype(np.float64)


def interval(values: NDArray[np.float64], confidence: float) -> Interval:
    """Take the middle ``confidence`` of the rounds' values."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
