"""Which of several engines will be done first."""

import math
from dataclasses import dataclass

MEMORY_S = 10.0


@dataclass(slots=True)
class PeakEwma:
    """What one more call to an engine is expected to take, in seconds.

    The peak-sensitive moving average of Finagle's load balancer: one slow answer counts in full at once and
    is forgotten over ``MEMORY_S``, so an engine that stalled gets no calls, then a few to show that it is back.
    Times are of one monotonic clock.
    """

    _value_s: float = 0.0
    _at: float = 0.0

    def observe(self, taken_s: float, now: float) -> None:
        """Learn from one call; a failed one counts as if it had used its whole budget."""
        kept = self._kept(now)
        value = self._value_s
        self._value_s = taken_s if taken_s > value * kept else value * kept + taken_s * (1 - kept)
        self._at = now

    def expected_s(self, waiting: int, now: float) -> float:
        """Return when a call would be done that comes after ``waiting`` others."""
        return self._value_s * self._kept(now) * (waiting + 1)

    def _kept(self, now: float) -> float:
        return math.exp((self._at - now) / MEMORY_S) if now > self._at else 1.0
