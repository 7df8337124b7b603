"""Answers given again: by bundle and canonical input, for as long as the task allows, asked for once at a time.

An entry belongs to the bundle that gave it and says nothing of arms: which bundle answers a call is drawn before
anything is looked up, so a plan that moves a caller moves it to another bundle's entries.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.serving.ports import Result
from protos.contract.digest import input_digest
from protos.contract.given import Given

Key = tuple[str, str]


@dataclass(slots=True)
class CacheCount:
    """What became of lookups since the gateway started."""

    hits: int = 0
    shared: int = 0  # waited for another call's answer to the same question
    misses: int = 0


class DecisionCache:
    """At most ``max_entries`` answers; the one used longest ago goes first. Only whole, checked answers are kept."""

    def __init__(self, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[Key, tuple[float, Result]] = {}  # in the order of their last use
        self._flights: dict[Key, asyncio.Future[Result | None]] = {}
        self._counts: dict[str, CacheCount] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def for_task(self, specialist: str, ttl_ms: int) -> "TaskCache | None":
        """Return a specialist's view; None where nothing is to be kept."""
        if not ttl_ms or not self._max_entries:
            return None
        return TaskCache(self, ttl_ms / 1000, self._counts.setdefault(specialist, CacheCount()))

    def counts(self) -> dict[str, CacheCount]:
        """Copy the counts, by specialist."""
        return dict(self._counts)

    def keep_only(self, bundles: set[str]) -> None:
        """Forget what bundles said that no plan needs any more."""
        for key in [key for key in self._entries if key[0] not in bundles]:
            del self._entries[key]

    def find(self, key: Key) -> Result | None:
        """Return an answer that is still good."""
        entry = self._entries.pop(key, None)
        if entry is None or entry[0] <= self._clock():
            return None
        self._entries[key] = entry
        return entry[1]

    def keep(self, key: Key, result: Result, ttl_s: float) -> None:
        """Keep an answer, in place of the one used longest ago if need be."""
        self._entries.pop(key, None)
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._clock() + ttl_s, result)

    async def obtain(
        self, key: Key, ttl_s: float, count: CacheCount, until: float, ask: Callable[[], Awaitable[Result]]
    ) -> tuple[Result, bool]:
        """Return an answer, and whether it was asked for by another call."""
        while True:
            found = self.find(key)
            if found is not None:
                count.hits += 1
                return found, True
            flight = self._flights.get(key)
            if flight is None:
                count.misses += 1
                return await self._lead(key, ttl_s, ask), False
            async with asyncio.timeout(max(0.0, until - self._clock())):
                # Shielded: others wait for it too, and it is not this call's to cancel.
                result = await asyncio.shield(flight)
            if result is not None:
                count.shared += 1
                return result, True
            # Who asked failed or left: whoever comes first asks again.

    async def _lead(self, key: Key, ttl_s: float, ask: Callable[[], Awaitable[Result]]) -> Result:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        result = None
        try:
            result = await ask()
            self.keep(key, result, ttl_s)
            return result
        finally:
            del self._flights[key]
            flight.set_result(result)


@dataclass(frozen=True, slots=True)
class TaskCache:
    """One specialist's answers in the cache."""

    cache: DecisionCache
    ttl_s: float
    count: CacheCount

    def obtain(
        self, bundle: str, given: Given, until: float, ask: Callable[[], Awaitable[Result]]
    ) -> Awaitable[tuple[Result, bool]]:
        """Return an answer of the bundle to the input, and whether it was not asked for by this call.

        What ``ask`` raises is raised here and nowhere else.

        Raises:
            TimeoutError: Another call's answer did not come until then (``time.monotonic``).
        """
        return self.cache.obtain((bundle, input_digest(given)), self.ttl_s, self.count, until, ask)
