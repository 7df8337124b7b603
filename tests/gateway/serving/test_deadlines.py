"""Deadlines ring once, in order, and never early; what was answered is forgotten."""

import asyncio
import contextlib
import time

from gateway.serving.deadlines import SWEEP_TICKS, TICKS_A_SECOND, Deadlines


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
