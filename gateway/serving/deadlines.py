"""Many deadlines, one timer: what a timer a call would cost, and nearly none of them ever rings."""

import asyncio
import heapq
import math
import time
from typing import Any

TICKS_A_SECOND = 1000  # as finely as the event loop's own timers
SWEEP_TICKS = 100  # answers are held no longer than this for the sake of their deadline
FORGOTTEN_S = 2.0  # after which lateness that was seen once counts half
MOST_LATE = 0.5  # of a call's time; engines have the rest however late this process is


class Deadlines:
    """Ends futures that were not answered by their time.

    A hashed timing wheel (Varghese and Lauck, 1987): futures of one millisecond share a bucket. A deadline is never
    early and up to a millisecond late. Use from one event loop.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[asyncio.Future[Any]]] = {}
        self._order: list[int] = []  # a heap of the buckets' ticks
        self._armed = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._late_s = 0.0
        self._rang = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, future: "asyncio.Future[Any]", when: float) -> None:
        """Have a future raise TimeoutError at ``when``, in seconds of ``time.monotonic``."""
        tick = int(when * TICKS_A_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append(future)
            return
        self._buckets[tick] = [future]
        heapq.heappush(self._order, tick)
        if tick < self._armed:
            self._arm(tick)

    def respond_by(self, now: float, until: float, reserve_s: float) -> float:
        """Return when to ring for what has to be on its way by ``until``: sooner on a loop that has been late.

        Such a loop comes late to the bell, and once more to whom it wakes.
        """
        return until - reserve_s - min(2 * self._late_by(now), MOST_LATE * (until - now))

    def _late_by(self, now: float) -> float:
        return self._late_s * math.exp2((self._rang - now) / FORGOTTEN_S)

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = float(tick)
        wait = tick / TICKS_A_SECOND - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._ring)

    def _ring(self) -> None:
        """End what is late, forget what was answered, and wait for the next."""
        moment = time.monotonic()
        self._late_s = max(self._late_by(moment), moment - self._armed / TICKS_A_SECOND)
        self._timer, self._armed, self._rang = None, math.inf, moment
        now = moment * TICKS_A_SECOND
        order, buckets = self._order, self._buckets
        while order:
            open_ones = [future for future in buckets[order[0]] if not future.done()]
            if open_ones and order[0] > now:
                buckets[order[0]] = open_ones
                self._arm(min(order[0], int(now) + SWEEP_TICKS))
                return
            del buckets[heapq.heappop(order)]
            for future in open_ones:
                future.set_exception(TimeoutError())
