"""Has the traffic moved away from what the engine was approved on? Readings and the rule that judges them."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class DriftVerdict(enum.Enum):
    """What a series of readings of one signal says."""

    DRIFT = "drift"
    WATCH = "watch"  # over its threshold, not yet often enough in a row to act
    NO_DRIFT = "no_drift"
    UNKNOWN = "unknown"  # too few samples, or a statistic that could not be computed


class Measurement(NamedTuple):
    """One window's statistic, the threshold it is held against, and how many samples made it.

    ``counts_for`` says how many windows in a row its evidence is worth: more than one where a
    single window is as unlikely by chance as several that are just over their threshold.
    """

    value: float
    threshold: float
    sample: int
    counts_for: int = 1


@dataclass(frozen=True, slots=True)
class DriftReading:
    """One signal's verdict on the present window, with the number behind it and a sentence for a person."""

    signal: str
    verdict: DriftVerdict
    value: float
    threshold: float
    sample: int
    summary: str
    counts_for: int = 1


def judge(history: Sequence[Measurement], persistence: int, minimum_sample: int) -> DriftVerdict:
    """Judge a signal by its windows: drift needs the last ``persistence`` of them over their threshold.

    Windows come oldest first. One may count for several in a row, by ``Measurement.counts_for``.
    One that could not be measured breaks the row: it is not known to have exceeded anything.

    Raises:
        ValueError: ``persistence`` or ``minimum_sample`` is below 1.
    """
    if persistence < 1 or minimum_sample < 1:
        raise ValueError(f"persistence is {persistence}, minimum_sample {minimum_sample}, expected 1 or more")
    if not history or not _is_measured(history[-1], minimum_sample):
        return DriftVerdict.UNKNOWN
    exceeded = 0
    for reading in reversed(history):
        if not _is_measured(reading, minimum_sample) or reading.value <= reading.threshold:
            break
        exceeded += reading.counts_for
    if exceeded >= persistence:
        return DriftVerdict.DRIFT
    return DriftVerdict.WATCH if exceeded else DriftVerdict.NO_DRIFT


def read(signal: str, history: Sequence[Measurement], persistence: int, minimum_sample: int) -> DriftReading:
    """Judge a signal and say why, "not drifting, because ..." included."""
    verdict = judge(history, persistence, minimum_sample)
    last = history[-1] if history else Measurement(math.nan, math.nan, 0)
    value = f"{signal} is {last.value:.4g} against a threshold of {last.threshold:.4g} over {last.sample} samples"
    because = {
        DriftVerdict.DRIFT: f"{value}, over it {_often(last, persistence)}",
        DriftVerdict.WATCH: f"{value}, over it but not yet {persistence} times in a row",
        DriftVerdict.NO_DRIFT: f"{value}, within it",
        DriftVerdict.UNKNOWN: f"{signal} cannot be judged from {last.sample} samples, needs {minimum_sample}",
    }
    if verdict is DriftVerdict.UNKNOWN and last.sample >= minimum_sample:
        because[verdict] = f"{signal} could not be computed over {last.sample} samples"
    return DriftReading(signal, verdict, last.value, last.threshold, last.sample, because[verdict], last.counts_for)


def _often(last: Measurement, persistence: int) -> str:
    if last.counts_for >= persistence > 1:
        return f"by as much as {persistence} windows in a row would have to be"
    return f"{persistence} times in a row"


def _is_measured(reading: Measurement, minimum_sample: int) -> bool:
    # An infinite threshold is a real one: no value exceeds it. NaN is nobody's measurement.
    return reading.sample >= minimum_sample and not math.isnan(reading.value) and not math.isnan(reading.threshold)
