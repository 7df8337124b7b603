"""How many calls an engine should have at once: a limit that follows latency, or one that stands still."""

import math
from collections import deque
from dataclasses import dataclass, field

INITIAL, LEAST = 20, 4
WINDOW_S, WINDOW_SAMPLES = 0.1, 50
TOLERANCE = 1.5  # latency may rise to this multiple of the baseline before the limit falls
SMOOTHING = 0.2
BASELINE_S = 60
BASELINE_SHARE = 0.1  # the low percentile of the last minute's idle spells that is the baseline
LEAST_GRADIENT = 0.5


@dataclass(slots=True)
class FixedLimit:
    """A limit that stands still."""

    most: int
    in_flight: int = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return self.most

    def has_room(self) -> bool:
        """Say whether one more call may begin."""
        return self.in_flight < self.most

    def observe(self, taken_s: float, now: float) -> None:
        """Learn nothing."""


@dataclass(slots=True)
class GradientLimit:
    """A concurrency limit that falls as latency rises above what it is when there is little to do.

    Gradient2 of Netflix's concurrency-limits with the baseline of Envoy's adaptive concurrency filter, taken
    passively: a low percentile of the last minute's spells in which less than half of the limit was used. Nothing
    is ever slowed down to measure it. While a whole minute has no such spell, the quickest of its windows serve.
    Times are seconds of one monotonic clock.
    """

    most: int
    in_flight: int = 0
    _limit: float = 0.0
    _samples: list[float] = field(default_factory=list)
    _began: float = 0.0
    _busiest: int = 0
    _idle: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=BASELINE_S))
    _busy: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=BASELINE_S))
    baseline_s: float = 0.0

    def __post_init__(self) -> None:
        self._limit = float(min(INITIAL, self.most))

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    def has_room(self) -> bool:
        """Say whether one more call may begin."""
        return self.in_flight < int(self._limit)

    def observe(self, taken_s: float, now: float) -> None:
        """Learn from a call that has just ended and is still counted in flight; one without an answer counts too."""
        samples = self._samples
        if not samples:
            self._began = now
        samples.append(taken_s)
        if self.in_flight > self._busiest:
            self._busiest = self.in_flight
        if len(samples) >= WINDOW_SAMPLES or now - self._began >= WINDOW_S:
            self._close_window(now)

    def _close_window(self, now: float) -> None:
        samples = sorted(self._samples)
        latency = samples[len(samples) // 2]
        is_idle = 2 * self._busiest < self._limit
        self._keep(self._idle if is_idle else self._busy, int(now), latency)
        self.baseline_s = self._low(int(now))
        if not is_idle:  # an engine with little to do says nothing of how much it could do
            gradient = max(LEAST_GRADIENT, min(1.0, TOLERANCE * self.baseline_s / latency)) if latency > 0 else 1.0
            wanted = self._limit * gradient + math.sqrt(self._limit)
            smoothed = self._limit + SMOOTHING * (wanted - self._limit)
            self._limit = min(max(smoothed, float(min(LEAST, self.most))), float(self.most))
        self._samples = []
        self._busiest = 0

    @staticmethod
    def _keep(spells: deque[tuple[int, float]], second: int, latency: float) -> None:
        """Keep each second's lowest latency."""
        if spells and spells[-1][0] == second:
            latency = min(latency, spells.pop()[1])
        spells.append((second, latency))

    def _low(self, second: int) -> float:
        for spells in (self._idle, self._busy):
            while spells and spells[0][0] <= second - BASELINE_S:
                spells.popleft()
        found = sorted(latency for _, latency in (self._idle or self._busy))
        return found[int(BASELINE_SHARE * len(found))]
