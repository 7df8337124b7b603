"""A reference compared with itself, many times over: what a statistic does where nothing has changed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors import TooFewSamples
from controlplane.detectors.thresholds import conformal_quantile

ROUNDING = 1e-9  # differences of shares and means below it are the floating point's own
Members = NDArray[np.bool_]
Numbers = NDArray[np.float64]


def draw_members(rows: int, window: int, resamples: int, seed: int) -> Members:
    """Draw windows from a reference of ``rows`` rows, shape [resamples, rows]; True is in the window.

    Raises:
        TooFewSamples: The reference holds fewer than two windows.
    """
    if window < 1 or rows < 2 * window:
        raise TooFewSamples(f"reference has {rows} rows, expected at least two windows of {window}")
    rng = np.random.default_rng(seed)
    order = np.argpartition(rng.random((resamples, rows), dtype=np.float32), window, axis=1)[:, :window]
    members = np.zeros((resamples, rows), dtype=np.bool_)
    np.put_along_axis(members, order, True, axis=1)
    return members


def members_in_order(rows: int, window: int) -> Members:
    """Return the windows of a reference in its own order, each half over the one before, shape [windows, rows]."""
    starts = np.arange(0, rows - window + 1, max(1, window // 2))
    place = np.arange(rows)[None, :] - starts[:, None]
    found: Members = (place >= 0) & (place < window)
    return found


@dataclass(frozen=True, slots=True)
class Null:
    """The upper tail of a statistic over A/A windows: all that a test at ``rate`` or below needs.

    Attributes:
        tail: The largest values, largest first.
        resamples: How many A/A windows there were.
        floor: The largest value over windows of the reference in their own order. Where rows follow on one
            another (hours of a day, days of a week), those differ more than windows drawn at random do, and
            what the reference itself does all the time is no alarm.
    """

    tail: tuple[float, ...]
    resamples: int
    floor: float

    @classmethod
    def of(cls, scores: Numbers, in_order: Numbers, rate: float) -> "Null":
        """Keep what tests at ``rate`` need; raises ValueError as ``conformal_quantile`` does."""
        conformal_quantile(list(scores), rate)
        kept = math.floor(rate * (len(scores) + 1)) + 1
        return cls(tuple(float(s) for s in np.sort(scores)[::-1][:kept]), len(scores), float(in_order.max()))

    def p_value(self, value: float) -> float:
        """Return the conformal p-value (1 + windows at least as far) / (1 + windows), or 1 where it is in no tail.

        Beyond every A/A window the tail goes on as an exponential with the mean excess of those in it. The
        statistics here have tails that fall at least as fast (sums of squares, or bounded differences), so
        that this errs towards too large a p-value.
        """
        if math.isnan(value):
            return math.nan
        if value <= self.floor + ROUNDING:
            return 1.0
        as_far = sum(1 for score in self.tail if score >= value - ROUNDING)
        if as_far == len(self.tail):
            return 1.0
        p = (1 + as_far) / (1 + self.resamples)
        if as_far == 0:
            start, least = max(self.tail[0], self.floor), self.tail[-1]
            excess = sum(score - least for score in self.tail) / len(self.tail)
            # Where the reference's own order goes beyond chance, its scale goes with it.
            excess *= start / self.tail[0] if self.tail[0] > 0 else 1.0
            p *= math.exp(-(value - start) / excess) if excess > 0 else 1.0
        return p

    def quantile(self, rate: float) -> float:
        """Return what a value must exceed for its p-value to be at most ``rate``."""
        most = math.floor(round(rate * (self.resamples + 1), 9))
        if most < 1:
            return math.inf  # too few windows for so rare an alarm
        return max(self.tail[min(most, len(self.tail)) - 1], self.floor) + ROUNDING


def windows_needed(signals: int, rate: float) -> int:
    """Return how many A/A windows let one signal among several be found at ``rate``."""
    return math.ceil(signals / rate) + 9


def split_means(values: Numbers, members: Members) -> Numbers:
    """Return the mean inside minus the mean outside of each window, shape [resamples]."""
    inside = members.sum(axis=1)
    total = members @ values
    found: Numbers = total / inside - (values.sum() - total) / (members.shape[1] - inside)
    return found


def chunks(members: Members, most: int = 1 << 22) -> Sequence[Members]:
    """Cut a draw into parts whose tables of doubles stay small."""
    step = max(1, most // members.shape[1])
    return [members[at : at + step] for at in range(0, len(members), step)]
