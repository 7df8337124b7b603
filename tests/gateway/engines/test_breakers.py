"""Which workers are left alone, and that no caller pays for a probe. Links are fakes: a test says when they answer."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.domain.balance import PeakEwma
from gateway.domain.breaker import CONSECUTIVE, State
from gateway.engines.link import WorkerLink
from gateway.engines.pool import Pool
from gateway.serving.hedge import Hedger
from gateway.serving.ports import WorkerAway
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given

BUNDLE = "sha256:" + "a" * 64
GIVEN = Given.of_text("x")


@dataclass(eq=False)
class FakeLink:
    name: str
    ready: set[str] = field(default_factory=lambda: {BUNDLE})
    load_of_late: PeakEwma = field(default_factory=PeakEwma)
    asked: list["asyncio.Future[engine_pb2.Result]"] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    is_away: bool = False

    @property
    def in_flight(self) -> int:
        return sum(not future.done() for future in self.asked)

    def submit(
        self, bundle: str, given: Given, remaining_us: int, priority: int
    ) -> tuple[int, "asyncio.Future[engine_pb2.Result]"]:
        if self.is_away:
            raise WorkerAway("away")
        self.asked.append(asyncio.get_running_loop().create_future())
        return len(self.asked) - 1, self.asked[-1]

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)
        self.asked[number].cancel()


def pool_of(count: int) -> tuple[Pool, list[FakeLink]]:
    links = [FakeLink(f"worker-{i}") for i in range(count)]
    return Pool(cast(list[WorkerLink], links), BundleStore(Path()).manifest), links


def fail(pool: Pool, link: FakeLink, times: int = CONSECUTIVE, at: float | None = None) -> None:
    now = time.monotonic() if at is None else at
    for _ in range(times):
        pool.ended(cast(WorkerLink, link), BUNDLE, 0.1, now, is_good=False)


def good(result: engine_pb2.Result) -> bool:
    return result.status == engine_pb2.RESULT_STATUS_OK


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_failing_worker_gets_no_calls_and_the_last_one_keeps_them() -> None:
    pool, links = pool_of(2)
    fail(pool, links[0])
    assert {pool.pick(BUNDLE).name for _ in range(20)} == {"worker-1"}
    fail(pool, links[1])
    assert pool.pick(BUNDLE) is not None
    links[1].ready.clear()
    assert cast(Any, pool.pick(BUNDLE)) is links[0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_at_most_half_are_left_alone_whatever_fails(count: int) -> None:
    pool, links = pool_of(count)
    for i, link in enumerate(links):
        fail(pool, link, at=100.0 + i)
    assert pool.pick(BUNDLE) in links
    if pool.breakers is not None:
        healthy = pool.breakers.healthy(pool.links, BUNDLE)
        assert healthy == links[count // 2 :]  # the first ones to fail are out


def test_calls_that_had_no_time_say_nothing_of_a_worker() -> None:
    pool, links = pool_of(2)
    for _ in range(50):
        pool.ended(cast(WorkerLink, links[0]), BUNDLE, 0.1, 1.0, is_good=None)
    assert pool.breakers is not None
    assert not pool.breakers.ejected


@pytest.mark.parametrize("outcome", ["good", "bad", "wrong status", "away", "never"])
def test_a_copy_of_a_call_decides_whether_a_worker_comes_back(outcome: str) -> None:
    async def story() -> None:
        pool, links = pool_of(2)
        breakers = pool.breakers
        assert breakers is not None
        fail(pool, links[0], at=time.monotonic() - 60)
        links[0].is_away = outcome == "away"
        for _ in range(3):  # one probe at a time
            breakers.probe(BUNDLE, GIVEN, 0 if outcome == "never" else 20_000_000, good)
        assert len(links[0].asked) == (outcome != "away")
        assert links[1].asked == []
        if outcome == "bad":
            links[0].asked[0].set_exception(WorkerAway("broke"))
        elif outcome in ("good", "wrong status"):
            status = engine_pb2.RESULT_STATUS_OK if outcome == "good" else engine_pb2.RESULT_STATUS_ENGINE_ERROR
            links[0].asked[0].set_result(engine_pb2.Result(status=status))
        async with asyncio.timeout(20):
            while State.HALF_OPEN in breakers.states().values():
                await asyncio.sleep(0)
        expected = State.CLOSED if outcome == "good" else State.OPEN
        assert breakers.states() == {("worker-0", BUNDLE): expected}
        assert bool(breakers.ejected) == (outcome != "good")

    asyncio.run(story())


def watched(pool: Pool, hedger: Hedger, after_s: float) -> tuple["asyncio.Future[engine_pb2.Result]", Any]:
    link = pool.pick(BUNDLE)
    number, future = link.submit(BUNDLE, GIVEN, 1_000_000, 0)
    return future, hedger.watch(link, number, future, BUNDLE, GIVEN, 0, after_s, 10.0)


def test_the_second_worker_s_answer_counts_when_it_comes_first() -> None:
    async def story() -> None:
        pool, links = pool_of(2)
        hedger = Hedger(pool, 1.0)
        answer, hedge = watched(pool, hedger, 0.0)
        async with asyncio.timeout(20):
            while not links[1].asked:
                await asyncio.sleep(0)
            links[1].asked[0].set_result(engine_pb2.Result(status=engine_pb2.RESULT_STATUS_OK, message="second"))
            assert (await answer).message == "second"
        assert hedge.has_won
        assert links[0].cancelled == [0]
        hedge.end()
        assert (hedger.count.sent, hedger.count.won) == (1, 1)

    asyncio.run(story())


def test_the_first_worker_s_answer_counts_when_it_comes_first_and_ends_the_second() -> None:
    async def story() -> None:
        pool, links = pool_of(2)
        hedger = Hedger(pool, 1.0)
        answer, hedge = watched(pool, hedger, 0.0)
        async with asyncio.timeout(20):
            while not links[1].asked:
                await asyncio.sleep(0)
        links[0].asked[0].set_result(engine_pb2.Result(status=engine_pb2.RESULT_STATUS_OK, message="first"))
        assert (await answer).message == "first"
        hedge.end()
        await turn()
        assert links[1].asked[0].cancelled()
        assert not hedge.has_won

    asyncio.run(story())


def test_a_second_worker_that_fails_changes_nothing() -> None:
    async def story() -> None:
        pool, links = pool_of(2)
        answer, hedge = watched(pool, Hedger(pool, 1.0), 0.0)
        async with asyncio.timeout(20):
            while not links[1].asked:
                await asyncio.sleep(0)
        links[1].asked[0].set_result(engine_pb2.Result(status=engine_pb2.RESULT_STATUS_ENGINE_ERROR))
        await turn()
        assert not answer.done()
        hedge.end()

    asyncio.run(story())


def test_hedges_stay_within_their_share_of_calls() -> None:
    async def story() -> None:
        pool, links = pool_of(2)
        hedger = Hedger(pool, 0.02)
        for _ in range(500):
            _, hedge = watched(pool, hedger, 0.0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hedge.end()
        assert 1 <= hedger.count.sent <= 10
        assert hedger.count.denied > 400

    asyncio.run(story())


def test_one_worker_is_never_hedged() -> None:
    async def story() -> None:
        pool, links = pool_of(1)
        hedger = Hedger(pool, 1.0)
        answer, hedge = watched(pool, hedger, 0.0)
        await turn()
        await turn()
        assert (hedger.count.sent, len(links[0].asked), answer.done()) == (0, 1, False)
        hedge.end()

    asyncio.run(story())
