"""Should calls still go to an engine that keeps failing? Open, closed, or proving itself."""

from dataclasses import dataclass
from enum import Enum

CONSECUTIVE = 5
WINDOW_S, WINDOW_LEAST, WINDOW_SHARE = 1.0, 20, 0.5
OPEN_S, LONGEST_OPEN_S = 1.0, 30.0


class State(Enum):
    """Closed lets calls through; open keeps them away; half open waits for the outcome of one probe."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


@dataclass(slots=True)
class Breaker:
    """A circuit breaker for one bundle on one worker.

    Opens after five failures in a row, or when more than half of at least twenty answers within a second failed.
    Stays open for a second, longer by a second with each opening that follows a failed probe, at most thirty; then
    one probe decides. Times are seconds of one monotonic clock.

    Source: outlier detection of Envoy (ejection time, base times the number of ejections); Nygard, "Release It!".
    """

    state: State = State.CLOSED
    opened: float = 0.0
    openings: int = 0
    _in_a_row: int = 0
    _window: float = 0.0
    _answers: int = 0
    _failures: int = 0

    def observe(self, is_good: bool, now: float) -> None:
        """Learn how a call ended. Calls that were under way when it opened change nothing."""
        if self.state is not State.CLOSED:
            return
        if now - self._window >= WINDOW_S:
            self._window, self._answers, self._failures = now, 0, 0
        self._answers += 1
        if is_good:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._failures += 1
        is_mostly_failing = self._answers >= WINDOW_LEAST and self._failures > WINDOW_SHARE * self._answers
        if self._in_a_row >= CONSECUTIVE or is_mostly_failing:
            self._open(now)

    def wants_probe(self, now: float) -> bool:
        """Say whether it is time to try."""
        return self.state is State.OPEN and now >= self.opened + min(OPEN_S * self.openings, LONGEST_OPEN_S)

    def probing(self) -> None:
        """A probe is on its way."""
        self.state = State.HALF_OPEN

    def probed(self, is_good: bool, now: float) -> None:
        """The probe is over: closed again, or open for longer."""
        if self.state is not State.HALF_OPEN:
            return
        if is_good:
            self.state = State.CLOSED
            self.openings = self._in_a_row = self._answers = self._failures = 0
        else:
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self.opened = now
        self.openings += 1
        self._in_a_row = 0
