"""Several texts in one remote request: what waits is sent together, and nothing waits in order to be joined.

At most ``max_requests`` requests are open at a server. A call that finds room goes at once, with whatever came in the
same turn of the event loop; the others wait for the next answer, and then go together.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.domain.capabilities import Capabilities, Health
from gateway.engines.ports import (
    Broken,
    EngineProblem,
    GenerateJob,
    Identity,
    InputRefused,
    LabelScores,
    OutOfTime,
    Piece,
    RemoteEngine,
    ScoreJob,
    Served,
)


class BatchEngine(RemoteEngine, Protocol):
    """An engine whose protocol takes several texts a request."""

    def batch_key(self, job: ScoreJob) -> Hashable | None:
        """Return what jobs have in common that may share a request; None for one that must go alone."""

    async def score_many(self, jobs: Sequence[ScoreJob], timeout_s: float) -> list[LabelScores | EngineProblem]:
        """Score jobs of one key, in their order, or say what is wrong with one; cancelling aborts them all.

        Raises:
            EngineProblem: None of them has an answer.
        """


@dataclass(eq=False, slots=True)
class _Call:
    """One caller who waits."""

    job: ScoreJob
    key: Hashable | None
    since: float
    until: float
    answer: asyncio.Future[LabelScores]


class Gathering:
    """A remote engine asked for many texts at a time; in everything else, that engine."""

    def __init__(self, engine: BatchEngine, *, max_batch: int, max_requests: int) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._max_requests = max_requests
        self._waiting: dict[_Call, None] = {}  # in the order they came
        self._requests: dict[asyncio.Task[None], set[_Call]] = {}
        self._is_due = False

    async def health(self) -> Health:
        """Ask the server."""
        return await self._engine.health()

    async def load(self, served: Served) -> Capabilities:
        """Check a bundle with the server."""
        return await self._engine.load(served)

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Ask which bundles the server has forgotten."""
        return await self._engine.missing(bundles)

    async def identify(self, served: Served) -> Identity:
        """Ask what answers for a bundle."""
        return await self._engine.identify(served)

    async def unload(self, served: Served) -> None:
        """Have the server forget a bundle."""
        await self._engine.unload(served)

    def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Stream text; every text is a request of its own."""
        return self._engine.generate(job, timeout_s)

    async def close(self) -> None:
        """Abort what is open and close every connection."""
        for request in list(self._requests):
            request.cancel()
        await self._engine.close()

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Score one text among others; a caller who leaves aborts the request if nobody else waits for it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        call = _Call(job, self._engine.batch_key(job), now, now + timeout_s, loop.create_future())
        self._waiting[call] = None
        self._send_soon(loop)
        try:
            async with asyncio.timeout_at(call.until):
                return await call.answer
        except TimeoutError as error:
            raise OutOfTime(f"no answer within {timeout_s:.3g} s") from error
        finally:
            self._leave(call)

    def _leave(self, call: _Call) -> None:
        self._waiting.pop(call, None)
        for request, calls in self._requests.items():
            calls.discard(call)
            if not calls:
                request.cancel()

    def _send_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_due and self._waiting and len(self._requests) < self._max_requests:
            self._is_due = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._is_due = False
        while self._waiting and len(self._requests) < self._max_requests:
            calls = self._gather()
            request = asyncio.ensure_future(self._ask(calls))
            self._requests[request] = set(calls)
            request.add_done_callback(self._answered)

    def _gather(self) -> list[_Call]:
        """Take the call that waits longest and those that may go with it."""
        first = next(iter(self._waiting))
        calls = [first]
        if first.key is not None:
            alike = (call for call in self._waiting if call is not first and call.key == first.key)
            calls += [call for call, _ in zip(alike, range(self._max_batch - 1), strict=False)]
        for call in calls:
            del self._waiting[call]
        return calls

    def _answered(self, request: asyncio.Task[None]) -> None:
        del self._requests[request]
        self._send_soon(request.get_loop())

    async def _ask(self, calls: list[_Call]) -> None:
        started = asyncio.get_running_loop().time()
        try:
            timeout_s = max(0.0, max(call.until for call in calls) - started)
            found = await self._engine.score_many([call.job for call in calls], timeout_s)
            if len(found) != len(calls):
                raise Broken(f"{len(found)} answers, expected {len(calls)}")
        except InputRefused as error:
            if len(calls) > 1:
                self._ask_alone(calls)
            else:
                _fail(calls, error)
        except Exception as error:  # whatever it is, each caller is told
            _fail(calls, error)
        else:
            for call, scores in zip(calls, found, strict=True):
                if isinstance(scores, EngineProblem):
                    _fail([call], scores)
                elif not call.answer.done():
                    waited_us = round(1e6 * (started - call.since))
                    mine = replace(scores, queue_us=scores.queue_us + waited_us, batch_size=len(calls))
                    call.answer.set_result(mine)

    def _ask_alone(self, calls: list[_Call]) -> None:
        """Ask again for each: one wrong input refuses a whole request, and nobody says which it was."""
        again = [call for call in calls if not call.answer.done()]
        for call in again:
            call.key = None
        self._waiting = dict.fromkeys([*again, *self._waiting])


def _fail(calls: list[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            kind = type(error) if isinstance(error, EngineProblem) else Broken
            problem = kind(str(error) or type(error).__name__)
            problem.__cause__ = error
            call.answer.set_exception(problem)
