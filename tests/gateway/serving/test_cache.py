"""What may be said again, by whom, for how long; driven on a clock of paper."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.cache import CacheCount, DecisionCache, TaskCache
from protos import decide_pb2, engine_pb2

KEYS = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))
FAR = 1e9


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def text(words: str) -> decide_pb2.Input:
    return decide_pb2.Input(text=words)


def answering(name: str) -> Callable[[], Awaitable[engine_pb2.Result]]:
    async def ask() -> engine_pb2.Result:
        await asyncio.sleep(0)
        return engine_pb2.Result(message=name)

    return ask


def view(cache: DecisionCache, ttl_ms: int = 1_000) -> TaskCache:
    found = cache.for_task("brand", ttl_ms)
    assert found is not None
    return found


@given(
    st.integers(1, 4),
    st.lists(st.one_of(st.tuples(st.just("keep"), KEYS), st.tuples(st.just("wait"), st.integers(1, 9))), max_size=60),
)
def test_what_is_found_was_kept_for_that_key_and_is_not_too_old(most: int, moves: list[tuple[str, object]]) -> None:
    clock = Clock()
    cache = DecisionCache(most, clock)
    newest: dict[object, tuple[float, int]] = {}
    for n, (move, what) in enumerate(moves):
        if move == "wait":
            assert isinstance(what, int)
            clock.now += what
        else:
            cache.keep(what, engine_pb2.Result(id=n), ttl_s=10.0)  # type: ignore[arg-type]
            newest[what] = (clock.now, n)
        assert len(cache) <= most
        for key, (at, kept) in newest.items():
            found = cache.find(key)  # type: ignore[arg-type]
            assert found is None or (found.id == kept and clock.now < at + 10)
        if move == "keep":
            assert cache.find(what) is not None  # type: ignore[arg-type]


def test_the_answer_used_longest_ago_goes_first_and_a_bundle_that_left_the_plan_leaves_nothing() -> None:
    cache = DecisionCache(2, Clock())
    for key in (("a", "x"), ("a", "y")):
        cache.keep(key, engine_pb2.Result(), 10.0)
    assert cache.find(("a", "x")) is not None
    cache.keep(("b", "z"), engine_pb2.Result(), 10.0)
    assert cache.find(("a", "y")) is None
    assert cache.find(("a", "x")) is not None
    cache.keep_only({"b"})
    assert cache.find(("a", "x")) is None
    assert len(cache) == 1


def test_fields_in_another_order_are_the_same_question_and_other_values_or_kinds_are_not() -> None:
    def fields(**values: decide_pb2.Value) -> decide_pb2.Input:
        return decide_pb2.Input(fields=values)

    one, two = decide_pb2.Value(integer=1), decide_pb2.Value(text="1")

    async def story() -> None:
        kept = view(DecisionCache(10, Clock()))
        await kept.obtain("a", fields(p=one, q=two), FAR, answering("first"))
        assert (await kept.obtain("a", fields(q=two, p=one), FAR, answering("again")))[1]
        for other in (fields(p=two, q=two), fields(p=one), text("1")):
            assert not (await kept.obtain("a", other, FAR, answering("other")))[1]
        assert not (await kept.obtain("b", fields(p=one, q=two), FAR, answering("another bundle")))[1]

    asyncio.run(story())


def test_callers_at_the_same_time_ask_once() -> None:
    async def story() -> None:
        kept = view(DecisionCache(10, Clock()))
        asked = []

        async def ask() -> engine_pb2.Result:
            asked.append(1)
            await asyncio.sleep(0)
            return engine_pb2.Result(message="one")

        found = await asyncio.gather(*(kept.obtain("a", text("x"), FAR, ask) for _ in range(5)))
        assert [is_shared for _, is_shared in found] == [False, True, True, True, True]
        assert {result.message for result, _ in found} == {"one"}
        assert len(asked) == 1
        assert kept.count == CacheCount(hits=0, shared=4, misses=1)
        assert (await kept.obtain("a", text("x"), FAR, ask))[1]
        assert kept.count.hits == 1

    asyncio.run(story())


def test_who_asks_and_fails_or_leaves_fails_alone() -> None:
    async def story() -> None:
        kept = view(DecisionCache(10, Clock()))

        async def fail() -> engine_pb2.Result:
            await asyncio.sleep(0)
            raise ValueError("mine")

        async def hang() -> engine_pb2.Result:
            await asyncio.Event().wait()
            raise AssertionError

        for lead in (fail, hang):
            first = asyncio.ensure_future(kept.obtain("a", text(lead.__name__), FAR, lead))
            await asyncio.sleep(0)
            others = [
                asyncio.ensure_future(kept.obtain("a", text(lead.__name__), FAR, answering("good"))) for _ in range(3)
            ]
            await asyncio.sleep(0)
            if lead is hang:
                first.cancel()
            async with asyncio.timeout(20):
                found = await asyncio.gather(*others)
            assert {result.message for result, _ in found} == {"good"}
            assert [is_shared for _, is_shared in found].count(False) == 1
            with pytest.raises((ValueError, asyncio.CancelledError)):
                await first

    asyncio.run(story())


def test_nobody_waits_for_another_call_longer_than_it_can() -> None:
    async def story() -> None:
        clock = Clock()
        kept = view(DecisionCache(10, clock))

        async def hang() -> engine_pb2.Result:
            await asyncio.Event().wait()
            raise AssertionError

        first = asyncio.ensure_future(kept.obtain("a", text("x"), FAR, hang))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await kept.obtain("a", text("x"), clock.now, answering("never asked"))
        assert not first.done()
        first.cancel()

    asyncio.run(story())


def test_off_is_no_cache_at_all() -> None:
    assert DecisionCache(10).for_task("brand", 0) is None
    assert DecisionCache(0).for_task("brand", 1_000) is None
