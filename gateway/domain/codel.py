"""Is a line of waiting calls a passing burst, or does it stand?"""

from dataclasses import dataclass

TARGET_S = 0.005
INTERVAL_S = 0.1
SLOUGH_S = 2 * TARGET_S


@dataclass(slots=True)
class CoDel:
    """Tells a standing queue from a burst by the least time that the longest-waiting call of an interval had waited.

    CoDel (Nichols and Jacobson, 2012) as folly simplifies it: no pacing of drops; while the queue stands, whoever
    has waited longer than twice the target goes. Times are seconds of one monotonic clock.
    """

    is_standing: bool = False
    _ends: float = 0.0
    _least_s: float = 0.0

    def most_wait_s(self, oldest_s: float, now: float) -> float | None:
        """Take note of how long the oldest call has waited, 0 when none does.

        Returns:
            The longest wait that is still worth serving; None when nobody has to go.
        """
        if now >= self._ends:
            self.is_standing = self._ends > 0.0 and self._least_s > TARGET_S and now < self._ends + INTERVAL_S
            self._ends = now + INTERVAL_S
            self._least_s = oldest_s
        else:
            self._least_s = min(self._least_s, oldest_s)
        return SLOUGH_S if self.is_standing else None
