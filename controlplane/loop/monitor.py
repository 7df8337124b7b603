"""One reference, many signals: what a window says about each, and what rows say before a window is full.

Windows are compared with the reference by every signal at once (thresholds from the reference's own A/A
windows, Benjamini-Hochberg over the signals); sudden changes are followed row by row.
"""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors import calibration, energy, error_rate, ks, shiryaev_roberts, total_variation
from controlplane.detectors.discovery import benjamini_hochberg
from controlplane.detectors.performance import PerformanceEstimate, estimate_accuracy, recalibrate
from controlplane.detectors.resampling import (
    Members,
    Null,
    Numbers,
    draw_members,
    members_in_order,
    split_means,
    windows_needed,
)
from controlplane.detectors.shiryaev_roberts import Evidence
from controlplane.domain.drift import Measurement
from controlplane.loop.encoding import DECISION, SCORE, Encoding, halves
from controlplane.loop.frame import Frame

INPUT, CALIBRATION, ERROR, CONFIDENCE, SUDDEN = "input", "calibration", "error", "confidence", "sudden"
MOST_WORTH = 100
LEAST_LABELLED = 0.5  # share of a reference's rows with a known outcome, for signals about outcomes


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false alarms are acceptable.

    Attributes:
        window: Rows of one window.
        rate: Chance that a window of unchanged traffic stands out in any signal.
        sudden: Chance of a false alarm by the row-by-row signal within ``rows`` unchanged rows.
    """

    window: int
    rate: float
    sudden: float = 0.02
    rows: int = 100_000


@dataclass(frozen=True, slots=True)
class SignalReading:
    """One signal of one window: over its threshold exactly when it stands out among all signals."""

    signal: str
    value: float
    threshold: float
    p_value: float
    sample: int
    counts_for: int = 1  # windows in a row that its evidence is worth

    @property
    def is_over(self) -> bool:
        """Did it stand out?"""
        return self.value > self.threshold

    @property
    def measurement(self) -> Measurement:
        """The reading as the domain judges it."""
        return Measurement(self.value, self.threshold, self.sample, self.counts_for)


@dataclass(frozen=True, slots=True)
class Followed:
    """The evidence for a sudden change after each row of a window, in nats.

    Attributes:
        columns: What is followed.
        joined: All of it together, shape [rows].
        parts: What each column adds, shape [rows, columns].
    """

    columns: tuple[str, ...]
    joined: Numbers
    parts: Numbers

    def first_over(self, threshold: float) -> int | None:
        """Return the first row at which it was enough."""
        over = np.flatnonzero(self.joined > threshold)
        return int(over[0]) if len(over) else None

    def leading(self, row: int | None) -> str:
        """Return the column that says most at a row, or at the row with the most evidence; none: nothing is staked."""
        at = int(np.argmax(self.joined)) if row is None else row
        return self.columns[int(np.argmax(self.parts[at]))] if np.isfinite(self.joined[at]) else ""


@dataclass(frozen=True, slots=True)
class WindowReading:
    """What one window said.

    Attributes:
        signals: Each signal's reading; ``SUDDEN`` is one of them.
        sudden_row: The first row of the window at which the row-by-row evidence was enough, or None.
        sudden_column: The column it was found in.
        performance: Estimated accuracy, where the reference knows enough outcomes.
        followed: The row-by-row evidence itself.
    """

    signals: tuple[SignalReading, ...]
    sudden_row: int | None
    sudden_column: str
    performance: PerformanceEstimate | None
    followed: Followed = field(compare=False)


class Monitor:
    """A reference, what chance does to every signal on it, and the evidence gathered since."""

    def __init__(
        self,
        reference: Frame,
        budget: Budget,
        nulls: Mapping[str, Null],
        evidence: Evidence,
        outcomes: Mapping[str, Evidence],
        restless: NDArray[np.bool_],
        rows: int = 0,
    ) -> None:
        self.reference = reference
        self._budget = budget
        self.nulls = nulls
        self.evidence = evidence
        self.outcomes = dict(outcomes)  # what speaks of outcomes, which come later than the rest of a row
        self.restless = restless  # columns that only windows judge: they change all the time
        self.rows = rows  # followed so far
        self._encoding = Encoding.of(reference)
        self._following = Encoding.of(halves(reference)[0])
        self._joint = self._encoding.joint(reference)
        self._within = energy.mean_within(self._joint)

    @classmethod
    def learn(cls, reference: Frame, budget: Budget, seed: int) -> "Monitor":
        """Compare a reference with itself.

        Raises:
            TooFewSamples: It holds fewer than two windows.
            ValueError: The rate cannot be bounded by any number of A/A windows.
        """
        encoding = Encoding.of(reference)
        has_outcomes = _has_outcomes(reference)
        signals = 4 + len(reference.numbers) + len(reference.categories) + (2 if has_outcomes else 0)
        resamples = windows_needed(signals, budget.rate)
        drawn = draw_members(len(reference), budget.window, resamples, seed)
        in_order = members_in_order(len(reference), budget.window)
        nulls = {
            name: Null.of(statistic(drawn), statistic(in_order), budget.rate)
            for name, statistic in _resampled(reference, encoding).items()
        }
        known = reference.known()
        if has_outcomes:
            inside = min(round(budget.window * len(known) / len(reference)), len(known) // 2)
            drawn = draw_members(len(known), inside, resamples, seed + 1)
            in_order = members_in_order(len(known), inside)
            for name, statistic in _resampled_outcomes(known).items():
                nulls[name] = Null.of(statistic(drawn), statistic(in_order), budget.rate)
        fitted, rest = halves(reference)
        names, rows = Encoding.of(fitted).followed(rest)
        limit = shiryaev_roberts.limit(len(names) + has_outcomes * len(_OUTCOMES), budget.sudden, budget.rows)
        restless = shiryaev_roberts.restless(rows, limit, seed)
        outcomes = {}
        for name, (column, _, bets) in _OUTCOMES.items() if has_outcomes else ():
            if not shiryaev_roberts.restless(column(known), limit, seed).any():
                outcomes[name] = Evidence.begin(column(known), bets)
        return cls(reference, budget, nulls, Evidence.begin(rows), outcomes, restless)

    def state(self) -> bytes:
        """Write everything but the reference, as a NumPy archive without objects."""
        nulls = {name: [*null.tail, null.floor, float(null.resamples)] for name, null in self.nulls.items()}
        columns = {f"null/{name}": np.array(values) for name, values in nulls.items()}
        columns |= {"bags": self.evidence.bags, "sums": self.evidence.sums, "restless": self.restless}
        for name, evidence in self.outcomes.items():
            columns |= {f"outcomes/{name}/bags": evidence.bags, f"outcomes/{name}/sums": evidence.sums}
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, rows=np.array(self.rows), **columns)
        return file.getvalue()

    @classmethod
    def restore(cls, reference: Frame, budget: Budget, state: bytes) -> "Monitor":
        """Continue from a reference and what ``state`` wrote."""
        with np.load(io.BytesIO(state), allow_pickle=False) as saved:
            nulls = {}
            for name in (n for n in saved if n.startswith("null/")):
                *tail, floor, resamples = saved[name].tolist()
                nulls[name.removeprefix("null/")] = Null(tuple(tail), int(resamples), floor)
            outcomes = {
                name: Evidence(saved[f"outcomes/{name}/bags"], saved[f"outcomes/{name}/sums"])
                for name in _OUTCOMES
                if f"outcomes/{name}/bags" in saved
            }
            evidence = Evidence(saved["bags"], saved["sums"])
            return cls(reference, budget, nulls, evidence, outcomes, saved["restless"], int(saved["rows"]))

    def with_outcomes(self, hit: Numbers, correct: Numbers, seed: int) -> "Monitor":
        """Return the same monitor, its evidence kept, once outcomes of the reference are known; NaN: not yet."""
        learned = Monitor.learn(replace(self.reference, hit=hit, correct=correct), self._budget, seed)
        learned.evidence, learned.restless, learned.rows = self.evidence, self.restless, self.rows
        return learned

    def thresholds(self) -> dict[str, float]:
        """Return what each signal must exceed to stand out alone."""
        rate = self._budget.rate / len(self.nulls)
        return {name: null.quantile(rate) for name, null in self.nulls.items()}

    def read(self, window: Frame, seed: int, matured: Frame | None = None) -> WindowReading:
        """Judge the next window, and take its rows into the evidence.

        Args:
            matured: The newest window whose outcomes are due; the window itself where outcomes are known at once.
        """
        matured = window if matured is None else matured
        values = {name: self._measure(name, matured if name in (CALIBRATION, ERROR) else window) for name in self.nulls}
        p_values = {name: null.p_value(values[name][0]) for name, null in self.nulls.items()}
        cut = benjamini_hochberg(list(p_values.values()), self._budget.rate)
        pooled = self._confirm({n for n, p in p_values.items() if p <= cut}, window, matured, seed)
        for name, null in pooled.items():
            p_values[name] = max(p_values[name], null.p_value(values[name][0]))
        cut = benjamini_hochberg(list(p_values.values()), self._budget.rate)
        readings = [
            SignalReading(
                name,
                value,
                max(null.quantile(cut) for null in (self.nulls[name], pooled.get(name, self.nulls[name]))),
                p_values[name],
                sample,
                _worth(len(p_values) * p_values[name], self._budget.rate),
            )
            for name, (value, sample) in values.items()
        ]
        followed = self._follow(window, seed)
        performance = None
        if _has_outcomes(self.reference):
            reference = self.reference
            performance = estimate_accuracy(reference.confidence, reference.correct, window.confidence, window.correct)
            if performance.holds is None and len(matured):
                # The window's own outcomes are not due yet: the assumption is checked on the newest that are.
                past = estimate_accuracy(reference.confidence, reference.correct, matured.confidence, matured.correct)
                performance = replace(
                    performance, holds=past.holds, why=f"in the newest window whose outcomes are due, {past.why}"
                )
        threshold = shiryaev_roberts.limit(1, self._budget.sudden, self._budget.rows)
        row = followed.first_over(threshold)
        # The evidence bounds the chance of an alarm over all rows, so e^-value is no p-value of this window alone.
        sudden = SignalReading(SUDDEN, float(followed.joined.max()), threshold, math.nan, len(window))
        return WindowReading((*readings, sudden), row, followed.leading(row), performance, followed)

    def _confirm(self, signals: set[str], window: Frame, matured: Frame, seed: int) -> dict[str, Null]:
        """Ask again where a signal stands out, with rows of reference and window dealt out anew together.

        A reference cannot show what chance does to values it holds few or none of; together with the
        window it can, and the test is exact. It takes longer, so only what stands out is asked again.
        """
        found = {}
        reference, encoding = self.reference, self._encoding
        for signal in signals:
            if signal in (CALIBRATION, ERROR):
                past, now = reference.known(), matured.known()
                statistic = _resampled_outcomes(past.join(now))[signal]
            else:
                past, now = reference, window
                statistic = _resampled(past.join(now), encoding)[signal]
            resamples = windows_needed(len(self.nulls), self._budget.rate)
            drawn = draw_members(len(past) + len(now), len(now), resamples, seed)
            found[signal] = Null.of(statistic(drawn), np.array([self.nulls[signal].floor]), self._budget.rate)
        return found

    def _measure(self, signal: str, window: Frame) -> tuple[float, int]:
        reference, encoding = self.reference, self._encoding
        if signal == INPUT:
            return energy.energy_distance(self._joint, encoding.joint(window), self._within), len(window)
        if signal == SCORE:
            return ks.kolmogorov_smirnov(reference.score, window.score), len(window)
        if signal == CONFIDENCE:
            gap = _confidence(reference, window).mean() - _confidence(reference, reference).mean()
            return abs(float(gap)), len(window)
        if signal in (CALIBRATION, ERROR):
            return self._measure_outcomes(signal, window)
        name = signal.removeprefix("field ")
        if name in reference.numbers:
            return ks.kolmogorov_smirnov(reference.numbers[name], window.numbers[name]), len(window)
        text = (
            (reference.decision, window.decision)
            if signal == DECISION
            else (reference.categories[name], window.categories[name])
        )
        first, second = (encoding.coded(name, column) for column in text)
        return total_variation.total_variation(first, second), len(window)

    def _measure_outcomes(self, signal: str, window: Frame) -> tuple[float, int]:
        """Measure on rows with a known outcome; NaN while there are fewer than the threshold was learned for."""
        past = self.reference.known()
        now = window.known()
        if len(now) < max(1, 0.9 * len(window) * len(past) / len(self.reference)):
            return math.nan, len(now)
        if signal == ERROR:
            return abs(float(now.correct.mean() - past.correct.mean())), len(now)
        return calibration.calibration_shift(past.score, past.hit, now.score, now.hit), len(now)

    def _follow(self, window: Frame, seed: int) -> Followed:
        names, rows = self._following.followed(window)
        self.evidence, logs = shiryaev_roberts.follow(self.evidence, rows, seed)
        shares = np.where(self.restless, 0.0, 1.0)
        if self.outcomes:
            names = (*names, *self.outcomes)
            logs = np.column_stack([logs, *(self._outcome(name, window, seed + 1) for name in self.outcomes)])
            shares = np.append(shares, np.ones(len(self.outcomes)))
        self.rows += len(window)
        if not shares.any():
            return Followed(names, np.full(len(window), -math.inf), np.full(logs.shape, -math.inf))
        return Followed(names, *shiryaev_roberts.joined(logs, shares))

    def _outcome(self, name: str, window: Frame, seed: int) -> Numbers:
        """Take in the outcomes that are known; return the evidence after each row, shape [rows]."""
        column, bets, _ = _OUTCOMES[name]
        known = ~np.isnan(window.correct)
        before = self.outcomes[name].logs
        rows = column(window[np.flatnonzero(known)])
        self.outcomes[name], found = shiryaev_roberts.follow(self.outcomes[name], rows, seed, bets)
        # A row without an outcome adds nothing and takes nothing away.
        after: Numbers = np.concatenate([before, found[:, 0]])[np.cumsum(known)]
        return after


Statistic = Callable[[Members], Numbers]


def _resampled(reference: Frame, encoding: Encoding) -> dict[str, Statistic]:
    joint, decisions = encoding.joint(reference), encoding.coded(DECISION, reference.decision)
    confidence = _confidence(reference, reference)
    found: dict[str, Statistic] = {
        INPUT: lambda members: energy.resampled(joint, members),
        SCORE: lambda members: ks.resampled(reference.score, members),
        DECISION: lambda members: total_variation.resampled(decisions, members),
        CONFIDENCE: lambda members: np.abs(split_means(confidence, members)),
    }
    for name, column in reference.numbers.items():
        found[f"field {name}"] = partial(ks.resampled, column)
    for name, text in reference.categories.items():
        found[f"field {name}"] = partial(total_variation.resampled, encoding.coded(name, text))
    return found


def _resampled_outcomes(known: Frame) -> dict[str, Statistic]:
    return {
        CALIBRATION: partial(calibration.resampled, known.score, known.hit),
        ERROR: lambda members: np.abs(split_means(known.correct, members)),
    }


def _worth(p_value: float, rate: float) -> int:
    """Return how many windows in which some signal stands out would be as unlikely together as this one is alone.

    Args:
        p_value: Of any signal's standing out so far: the signal's own times the number of signals.
        rate: Chance that some signal stands out in a window.
    """
    if math.isnan(p_value) or p_value >= rate:
        return 1
    return min(MOST_WORTH, int(math.log(max(p_value, 1e-300)) / math.log(rate)))


def _has_outcomes(frame: Frame) -> bool:
    return float((~np.isnan(frame.correct)).mean()) >= LEAST_LABELLED


def _confidence(reference: Frame, frame: Frame) -> Numbers:
    known = ~np.isnan(reference.correct)
    return recalibrate(reference.confidence[known], reference.correct[known], frame.confidence)


def _surprise(frame: Frame) -> Numbers:
    """Return how unlikely each outcome was by its score, shape [rows, 1]."""
    return np.abs(frame.hit - frame.score)[:, None]


def _wrong(frame: Frame) -> Numbers:
    """Return which outcomes were not as decided, shape [rows, 1]."""
    found: Numbers = 1 - frame.correct[:, None]
    return found


# By name: the column, the bets on it, and how many they are.
_OUTCOMES: dict[str, tuple[Callable[[Frame], Numbers], shiryaev_roberts.Bets, int]] = {
    "surprise": (_surprise, shiryaev_roberts.by_rank, shiryaev_roberts.BETS),
    "errors": (_wrong, error_rate.bets, len(error_rate.ODDS)),
}
