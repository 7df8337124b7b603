"""Deadlines ring once, in order, and never early; what was answered is forgotten."""

import asyncio
import contextlib
import time

import pytest

from gateway.serving.deadlines import SWEEP_TICKS, TICKS_A_SECOND, Deadlines
from tests.simulation.calls import on_paper


def test_futures_end_at_their_time_whatever_order_they_came_in() -> None:
    async def story() -> None:
        deadlines = Deadlines()
        ended: list[tuple[float, float]] = []

        async def wait(when: float) -> None:
            future = asyncio.get_running_loop().create_future()
            deadlines.add(future, when)
            try:
                await future
            except TimeoutError:
                ended.append((when, time.monotonic()))

        now = time.monotonic()
        due = [now + 0.03, now + 0.01, now - 1.0, now + 0.02, now + 0.01]
        await asyncio.gather(*(wait(when) for when in due))
        assert [when for when, _ in ended] == sorted(due)
        assert all(at >= when for when, at in ended)
        assert len(deadlines) == 0

    asyncio.run(story())


def test_an_answered_future_is_left_alone_and_forgotten_long_before_its_time() -> None:
    async def story() -> None:
        deadlines = Deadlines()
        futures = [asyncio.get_running_loop().create_future() for _ in range(100)]
        for number, future in enumerate(futures):
            deadlines.add(future, time.monotonic() + 60 + number)
        soon = asyncio.get_running_loop().create_future()
        deadlines.add(soon, time.monotonic() + 0.001)
        for future in futures[:-1]:
            future.set_result("answer")
        with contextlib.suppress(TimeoutError):
            await soon
        while len(deadlines) > 1:  # at most a sweep away
            await asyncio.sleep(SWEEP_TICKS / TICKS_A_SECOND)
        assert [future.result() for future in futures[:-1]] == ["answer"] * 99
        assert not futures[-1].done()

    asyncio.run(story())


def test_on_a_loop_that_comes_late_fallbacks_are_out_in_time_once_that_is_known() -> None:
    async def story() -> list[bool]:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        are_in_time = []
        for _ in range(5):
            now = time.monotonic()
            until = now + 0.15
            future = loop.create_future()
            deadlines.add(future, deadlines.respond_by(now, until, 0.002))
            with contextlib.suppress(TimeoutError):
                await future
            are_in_time.append(time.monotonic() <= until)
        return are_in_time

    with on_paper(turn_s=0.03) as loop:
        assert loop.run_until_complete(story()) == [False, True, True, True, True]


def test_engines_keep_half_of_the_time_however_late_the_loop_is_and_all_of_it_again_soon() -> None:
    async def story() -> tuple[float, float, float]:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        at_first = deadlines.respond_by(0.0, 0.1, 0.002)
        future = loop.create_future()
        deadlines.add(future, time.monotonic() + 0.01)
        with contextlib.suppress(TimeoutError):
            await future
        now = time.monotonic()
        late, later = (deadlines.respond_by(then, then + 0.1, 0.002) - then for then in (now, now + 20))
        return at_first, late, later

    with on_paper(turn_s=1.0) as loop:
        assert loop.run_until_complete(story()) == pytest.approx((0.098, 0.048, 0.097), abs=0.001)
