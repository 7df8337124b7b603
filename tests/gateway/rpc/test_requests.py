"""What a stream sends reaches its handler, or nobody where the handler is gone."""

import asyncio
import tracemalloc
from types import SimpleNamespace

from gateway.rpc.requests import Requests
from gateway.rpc.wire import MessageReader, frame

LIMIT = 1 << 20


def test_a_piece_that_comes_in_the_turn_in_which_its_handler_is_cancelled_breaks_nothing() -> None:
    async def story() -> None:
        stream = SimpleNamespace(is_asked=False)
        requests = Requests(stream, MessageReader("identity", LIMIT))  # type: ignore[arg-type]

        async def handle() -> None:
            async for _ in requests.messages():
                pass

        handler = asyncio.create_task(handle())
        await asyncio.sleep(0)
        handler.cancel()
        requests.put(b"\0\0\0\0\0")  # before the cancelled handler has run
        requests.put(b"\0\0\0\0\0")
        await asyncio.wait([handler])
        assert handler.cancelled()

    asyncio.run(story())


def test_what_waits_for_its_handler_takes_no_more_than_its_bytes_and_messages_are_inflated_one_by_one() -> None:
    bombs = frame(bytes(LIMIT), compress=True) * 10
    small = frame(b"") * 4_000

    async def story() -> int:
        stream = SimpleNamespace(is_asked=True, connection=SimpleNamespace(give_back=lambda *_: None))
        requests = Requests(stream, MessageReader("gzip", LIMIT))  # type: ignore[arg-type]
        for at in range(len(small)):
            requests.put(small[at : at + 1])
        requests.put(bombs)
        before, _ = tracemalloc.get_traced_memory()
        messages = requests.messages()
        told = 0
        async for message in messages:
            told += 1
            if message:
                break
        await messages.aclose()  # type: ignore[attr-defined]
        assert before < 4 * len(small)
        return told

    tracemalloc.start()
    try:
        assert asyncio.run(story()) == 4_001
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()
