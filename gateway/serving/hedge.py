"""A second worker is asked when the first takes longer than nearly all answers do; the first answer counts.

Source: Dean and Barroso, "The Tail at Scale", 2013: hedged requests, deferred to the 95th percentile.
"""

import asyncio
from dataclasses import dataclass

from gateway.engines.pool import Pool
from gateway.serving.ports import EngineLink, Result, WorkerAway
from protos import engine_pb2
from protos.contract.given import Given

MOST_SAVED = 10.0  # hedges in a row after a quiet time


@dataclass(slots=True)
class HedgeCount:
    """Since the gateway started."""

    sent: int = 0
    won: int = 0
    denied: int = 0  # the budget was spent


class Hedger:
    """Watches calls. Each call adds ``share`` of a hedge to the budget, so hedges never exceed that share of calls."""

    def __init__(self, pool: Pool, share: float) -> None:
        self.count = HedgeCount()
        self._pool = pool
        self._share = share
        self._saved = 0.0

    def watch(
        self,
        link: EngineLink,
        number: int,
        answer: "asyncio.Future[Result]",
        bundle: str,
        given: Given,
        priority: int,
        after_s: float,
        until_s: float,
    ) -> "Hedge":
        """Hedge a call after ``after_s``; ``until_s`` is all the time it has, both from now."""
        self._saved = min(self._saved + self._share, MOST_SAVED)
        return Hedge(self, link, number, answer, bundle, given, priority, after_s, until_s)

    def second(self, first: EngineLink, bundle: str) -> EngineLink | None:
        """Return another worker, if there is one and the budget allows it."""
        try:
            other = self._pool.pick(bundle, but=first)
        except WorkerAway:
            return None
        if self._saved < 1.0:
            self.count.denied += 1
            return None
        self._saved -= 1.0
        self.count.sent += 1
        return other


class Hedge:
    """One call that is watched. ``end`` it once the call is over."""

    __slots__ = ("_after_s", "_answer", "_bundle", "_first", "_given", "_hedger", "_number", "_priority", "_second",
                 "_timer", "_until_s", "has_won")  # fmt: skip

    def __init__(
        self,
        hedger: Hedger,
        first: EngineLink,
        number: int,
        answer: "asyncio.Future[Result]",
        bundle: str,
        given: Given,
        priority: int,
        after_s: float,
        until_s: float,
    ) -> None:
        self._hedger = hedger
        self._first = first
        self._number = number
        self._answer = answer
        self._bundle = bundle
        self._given = given
        self._priority = priority
        self._after_s = after_s
        self._until_s = until_s
        self._second: tuple[EngineLink, int] | None = None
        self.has_won = False
        self._timer = asyncio.get_running_loop().call_later(after_s, self._ask_another)

    def _ask_another(self) -> None:
        if self._answer.done():
            return
        other = self._hedger.second(self._first, self._bundle)
        if other is None:
            return
        remaining_us = int((self._until_s - self._after_s) * 1e6)
        try:
            number, future = other.submit(self._bundle, self._given, remaining_us, self._priority)
        except WorkerAway:
            return
        self._second = other, number
        future.add_done_callback(self._answered)

    def _answered(self, second: "asyncio.Future[Result]") -> None:
        if self._answer.done() or second.cancelled() or second.exception() is not None:
            return
        if second.result().status == engine_pb2.RESULT_STATUS_OK:
            self.has_won = True
            self._hedger.count.won += 1
            self._answer.set_result(second.result())
            self._first.cancel(self._number)

    def end(self) -> None:
        """Nobody waits for a second answer any more."""
        self._timer.cancel()
        if self._second is not None:
            link, number = self._second
            link.cancel(number)
