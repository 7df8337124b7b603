"""What each specialist did since the gateway started, as model statistics tell it."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something was done, and the microseconds it took in all."""

    count: int = 0
    total_us: int = 0


@dataclass(slots=True)
class SpecialistStatistics:
    """One decision is one inference, whichever service asked for it and whether or not it was a test.

    A fallback is a success without engine time. An input refused before it was assigned is not counted.
    """

    success: Duration = field(default_factory=Duration)
    failure: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    engine: dict[int, Duration] = field(default_factory=dict)  # answers by the size of the batch they came in
    cache_hits: int = 0
    last_unix_s: float = 0.0

    def executed(self, queue_us: int, engine_us: int, batch_size: int) -> None:
        """Count one answer of an engine; ``engine_us`` is what its whole batch took."""
        queue, engine = self.queue, self.engine.get(batch_size)
        if engine is None:
            engine = self.engine[batch_size] = Duration()
        queue.count += 1
        queue.total_us += queue_us
        engine.count += 1
        engine.total_us += engine_us

    def ended(self, taken_us: int, *, is_answered: bool) -> None:
        """Count one decision that began."""
        ended = self.success if is_answered else self.failure
        ended.count += 1
        ended.total_us += taken_us
        self.last_unix_s = time.time()


class Statistics:
    """One record a specialist that was ever served; specialists are the operators', so they are few."""

    def __init__(self) -> None:
        self._by_name: dict[str, SpecialistStatistics] = {}

    def all(self) -> dict[str, SpecialistStatistics]:
        """Copy the table, not the records."""
        return dict(self._by_name)

    def of(self, specialist: str) -> SpecialistStatistics:
        """Return the record to add to or to read."""
        found = self._by_name.get(specialist)
        if found is None:
            found = self._by_name[specialist] = SpecialistStatistics()
        return found
