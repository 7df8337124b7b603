"""What a stream sends reaches its handler, or nobody where the handler is gone."""

import asyncio
from types import SimpleNamespace

from gateway.rpc.requests import Requests
from gateway.rpc.wire import MessageReader

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
