"""Many requests on one stream, answered as each is ready."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any


async def interleave(
    payloads: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[bytes]], limit: int
) -> AsyncIterator[bytes]:
    """Answer every payload, in the order in which the answers are ready.

    At most ``limit`` are read and not yet taken from here as answers: a caller who reads slowly or
    sends too fast is not read from, and its transport makes it wait. The first error ends the stream.
    Nothing that was started outlives it.
    """
    ready: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()  # None: the end
    slots = asyncio.Semaphore(limit)
    tasks: set[asyncio.Task[None]] = set()

    def start(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if task.cancelled():
            ready.put_nowait(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            ready.put_nowait(error)

    async def work(payload: bytes) -> None:
        ready.put_nowait(await answer(payload))

    async def read() -> None:
        await slots.acquire()
        async for payload in payloads:
            start(work(payload))
            await slots.acquire()
        for _ in range(limit - 1):  # with all of them back, every answer was taken
            await slots.acquire()
        ready.put_nowait(None)

    start(read())
    try:
        while (item := await ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            slots.release()
    finally:
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
