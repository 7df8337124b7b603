"""Can this request finish in time? Finish times learned per engine and input size against the time that is left."""

import math
from dataclasses import dataclass, field

FIRST_US = 50.0  # lower edge of the first bucket; all that is faster falls into it
STEPS_PER_OCTAVE = 4  # buckets 19 % wide, from 50 us to beyond a minute
BUCKETS = 82
MEMORY = 256  # answers that make up most of what is remembered
LEAST = 10  # answers before anything is refused on their account
REFRESH = 16  # answers between two readings of the quantiles
SURPRISE = 0.2  # share of all that is remembered which an answer weighs that contradicts a refusal
IN_A_ROW = 4  # calls without an answer, and none between them that got one: after these the engine is silent
SIZE_CLASSES = 12
_GROWTH = 1.0 + 1.0 / MEMORY
_TOO_HEAVY = 1e12

ADMIT, HEDGE = 0.90, 0.95  # the quantiles kept at hand


@dataclass(slots=True)
class FinishTime:
    """The recent distribution of the time from submit to answer, for one engine and one class of input size.

    A histogram with forward decay (Cormode, Shkapenyuk, Srivastava and Xu, 2009): newer answers weigh more,
    and nothing has to be shrunk until the weights grow out of range. Times are microseconds.
    """

    admit_us: float = 0.0  # 90th percentile, less what refusals took off it; 0 until enough is known
    hedge_us: float = 0.0  # 95th percentile; 0 until enough is known
    _counts: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    _weight: float = 1.0
    _total: float = 0.0
    _seen: int = 0
    _unrefused_us: float = 0.0  # the estimate before any refusal
    _refused_us: float = 0.0  # the largest budget refused since the last answer
    _trial_until: float = 0.0
    _unanswered: int = 0  # calls that gave up since the last answer

    def admits(self, left_us: float, now: float) -> bool:
        """Say whether a call that has so much time left may begin, at ``now`` in seconds of one monotonic clock.

        A refusal has the estimate trusted a little less, until the next answer, so that one slow spell cannot refuse
        everything for ever: refused callers get through in the end, rarely where the time is far too short. Who gets
        through by that alone is a trial, and so is who asks a silent engine. There is one at a time: the others would
        wait for nothing. An answer that shows a refusal to have been wrong counts for much; any ends a silence.
        """
        if left_us <= 0:
            return False
        if left_us >= self._unrefused_us and not self.is_silent:
            return True
        if left_us < self.admit_us:
            self._refused_us = max(self._refused_us, left_us)
            self.admit_us *= 0.98
        elif now >= self._trial_until:
            self._trial_until = now + left_us / 1e6
            return True
        return False

    @property
    def is_silent(self) -> bool:
        """Whether the engine has answered none of the last few calls that had time enough."""
        return self._unanswered > IN_A_ROW

    def observe(self, taken_us: float) -> None:
        """Learn from one answer."""
        self._unanswered = 0
        is_contradicted = taken_us < self._refused_us
        if is_contradicted:
            self._trial_until = 0.0
        self._learn(taken_us, is_contradicted)

    def gave_up(self, after_us: float) -> None:
        """Learn from a call that had no answer by then: the answer would have come later still.

        One that was given less time than the estimate asks for says nothing new, but that the estimate stands. Those in
        a silence say nothing of the time that answers take.
        """
        if after_us < self._unrefused_us:
            self._restore()
            return
        self._unanswered += 1
        if not self.is_silent:
            self._learn(after_us, is_surprise=False)

    def _learn(self, taken_us: float, is_surprise: bool) -> None:
        place = int(math.log2(taken_us / FIRST_US) * STEPS_PER_OCTAVE) if taken_us > FIRST_US else 0
        weight = max(self._weight, SURPRISE * self._total) if is_surprise else self._weight
        self._counts[place if place < BUCKETS else BUCKETS - 1] += weight
        self._total += weight
        self._weight = max(self._weight * _GROWTH, self._total / MEMORY)  # or after surprises nothing else would count
        self._seen += 1
        if self._refused_us:
            self._restore()
        if self._seen % REFRESH == 0 or is_surprise or self._seen == LEAST:
            self._refresh()

    def quantile_us(self, share: float) -> float:
        """Return a quantile, interpolated within its bucket; 0 when nothing is known."""
        if self._total <= 0.0:
            return 0.0
        wanted = share * self._total
        below = 0.0
        for place, count in enumerate(self._counts):
            if below + count >= wanted and count > 0.0:
                low = 0.0 if place == 0 else _edge_us(place)
                high = _edge_us(place + 1)
                return low + (high - low) * (wanted - below) / count
            below += count
        return _edge_us(BUCKETS)

    def _restore(self) -> None:
        self._refused_us = 0.0
        self.admit_us = self._unrefused_us

    def _refresh(self) -> None:
        if self._weight > _TOO_HEAVY:
            scale = 1.0 / self._weight
            self._counts = [count * scale for count in self._counts]
            self._total = sum(self._counts)
            self._weight = 1.0
        if self._seen >= LEAST:
            self.admit_us = self._unrefused_us = self.quantile_us(ADMIT)
            self.hedge_us = self.quantile_us(HEDGE)


class FinishTimes:
    """One engine's finish times by the size of the input: each class holds sizes up to four times the last one's."""

    def __init__(self) -> None:
        self._by_class = tuple(FinishTime() for _ in range(SIZE_CLASSES))

    def of(self, size_bytes: int) -> FinishTime:
        """Return what is known of inputs of this size."""
        place = size_bytes.bit_length() >> 1
        return self._by_class[place if place < SIZE_CLASSES else SIZE_CLASSES - 1]

    def known(self) -> tuple[tuple[int, FinishTime], ...]:
        """Return the classes that enough is known of, each with its largest size in bytes, smallest first."""
        return tuple(
            ((2 << (2 * place)) - 1, found) for place, found in enumerate(self._by_class) if found.hedge_us > 0.0
        )


def _edge_us(place: int) -> float:
    return FIRST_US * math.exp2(place / STEPS_PER_OCTAVE)
