"""From an assignment to an engine's answer: admit, mirror, ask."""

import asyncio
import time
from collections.abc import Awaitable

from gateway.engines.pool import Pool
from gateway.errors import DeadlineTooShort
from gateway.serving.cache import TaskCache
from gateway.serving.deadlines import Deadlines
from gateway.serving.gate import Full, Gate
from gateway.serving.hedge import Hedge, Hedger
from gateway.serving.ports import Result, WorkerAway
from gateway.serving.shadow import Pair, ShadowLane
from gateway.serving.underway import NoAnswer, Underway, check_result, late, output_problem, overloaded, unavailable
from protos import decide_pb2, engine_pb2


class Asking:
    """Asks engines on behalf of calls. What comes back is a result that keeps the contract, or NoAnswer is raised."""

    def __init__(self, pool: Pool, shadow: ShadowLane, *, max_in_flight: int, hedger: Hedger | None = None) -> None:
        self._pool = pool
        self._shadow = shadow
        self._max_in_flight = max_in_flight
        self._hedger = hedger
        self.deadlines = Deadlines()
        self.in_flight = 0  # calls, the dispatcher's to count

    async def recall(self, cache: TaskCache, call: Underway) -> Result:
        """Give an answer again, or ask for it."""

        async def ask() -> Result:
            return await self.admit(call)

        try:
            result, call.is_cached = await cache.obtain(
                call.assignment.bundle, call.question.input, call.respond_by, ask
            )
        except TimeoutError:
            raise late(call) from None
        if call.is_cached and call.assignment.shadow is not None and not call.question.test:
            self._shadow.not_asked(call.question.specialist, call.route.split.salt, call.assignment.shadow)
        return result

    def admit(self, call: Underway) -> Awaitable[Result]:
        """Refuse what cannot be answered; returns the answer to come of what can."""
        if self.in_flight > self._max_in_flight:
            raise overloaded(call)
        times, budget_us = call.times, call.engine_budget_us
        if not times.admits(budget_us, time.monotonic()):
            if times.is_silent:
                raise unavailable(call)
            raise NoAnswer(decide_pb2.FALLBACK_REASON_NO_TIME, DeadlineTooShort(budget_us, int(times.admit_us)))
        return self._ask(call) if call.lane.gate is None else self._enter(call.lane.gate, call)

    async def _enter(self, gate: Gate, call: Underway) -> Result:
        """Ask the engine once its gate lets the call in."""
        try:
            # Later than that, the engine could not finish.
            await gate.enter(call.respond_by - call.times.admit_us / 1e6)
        except Full:
            raise overloaded(call) from None
        entered = time.monotonic()
        taken_s: float | None = None
        try:
            result = await self._ask(call)
            taken_s = time.monotonic() - entered
            return result
        except NoAnswer as failure:
            if failure.reason == decide_pb2.FALLBACK_REASON_DEADLINE:
                taken_s = time.monotonic() - entered
            raise
        finally:
            gate.leave(taken_s)

    def _mirror(self, call: Underway, candidate: str) -> Pair | None:
        split = call.route.split
        return self._shadow.offer(
            call.question, split.primary, candidate, split.salt, call.route.task, call.engine_budget_us
        )

    async def _ask(self, call: Underway) -> Result:
        bundle, shadow = call.assignment.bundle, call.assignment.shadow
        if shadow is not None and not call.question.test:
            call.pair = self._mirror(call, shadow)
        try:
            link = self._pool.pick(bundle)
            asked = time.monotonic()
            remaining_us = int((call.respond_by - asked) * 1e6)
            number, future = link.submit(bundle, call.question.input, remaining_us, call.lane.priority)
        except WorkerAway:
            raise unavailable(call) from None
        self.deadlines.add(future, call.respond_by)
        hedge: Hedge | None = None
        if self._hedger is not None and call.times.hedge_us:
            hedge = self._hedger.watch(
                link, number, future, bundle, call.question.input, call.lane.priority,
                call.times.hedge_us / 1e6, call.respond_by - asked,
            )  # fmt: skip
        if self._pool.breakers is not None and self._pool.breakers.ejected:
            self._probe(call, remaining_us)
        try:
            result = await future
        except TimeoutError:
            link.cancel(number)
            now = time.monotonic()
            taken_us = (now - asked) * 1e6
            # An engine that was given too little time did nothing wrong.
            is_to_blame = taken_us >= call.times.admit_us
            self._pool.ended(link, bundle, now - asked, now, is_good=False if is_to_blame else None)
            call.times.gave_up(taken_us)
            raise late(call) from None
        except asyncio.CancelledError:
            link.cancel(number)
            raise
        except WorkerAway:
            raise unavailable(call) from None
        finally:
            if hedge is not None:
                hedge.end()
        now = time.monotonic()
        try:
            check_result(result, call)
        except NoAnswer as failure:
            # As slow as can be, or a worker that fails at once would be given every call.
            is_broken = failure.reason == decide_pb2.FALLBACK_REASON_ENGINE_ERROR
            self._pool.ended(link, bundle, call.respond_by - asked, now, is_good=False if is_broken else None)
            raise
        if hedge is not None and hedge.has_won:  # the first worker never answered
            self._pool.ended(link, bundle, call.respond_by - asked, now, is_good=None)
        else:
            self._pool.ended(link, bundle, now - asked, now, is_good=True)
        call.times.observe((now - asked) * 1e6)
        return result

    def _probe(self, call: Underway, remaining_us: int) -> None:
        """Have a worker that was left alone prove itself on a copy of this call."""
        assert self._pool.breakers is not None
        bundle, task = call.assignment.bundle, call.route.task

        def is_right(result: Result) -> bool:
            is_ok = result.status == engine_pb2.RESULT_STATUS_OK
            return is_ok and output_problem(result, bundle, task) is None

        self._pool.breakers.probe(bundle, call.question.input, remaining_us, is_right)
