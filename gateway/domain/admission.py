"""Can this request finish in time? Learned service time against the time that is left."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ServiceTime:
    """A decaying estimate of one bundle's high-percentile time from submit to answer.

    Follows the 90th percentile by unequal steps (stochastic quantile tracking, Robbins and
    Monro 1951): up nine times as far on a slow answer as down on a fast one.
    """

    estimate_us: float = 0.0
    _scale_us: float = field(default=0.0)

    def observe(self, taken_us: float) -> None:
        """Learn from one answer."""
        if self._scale_us == 0.0:
            self.estimate_us = self._scale_us = taken_us
            return
        self._scale_us += 0.05 * (taken_us - self._scale_us)
        step = 0.02 * self._scale_us
        self.estimate_us = max(0.0, self.estimate_us + (step * 9 if taken_us > self.estimate_us else -step))

    def decay(self) -> None:
        """Forget a little after a refusal, so that one slow spell cannot refuse everything for ever."""
        self.estimate_us *= 0.98


def can_finish(left_us: float, estimate_us: float) -> bool:
    """Say whether the work is expected to end within the time left."""
    return left_us > 0 and left_us >= estimate_us
