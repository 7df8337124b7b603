"""The requests of a stream, as they come."""

import asyncio
from collections.abc import AsyncIterator

from gateway.rpc.http2_stream import Stream
from gateway.rpc.wire import MessageReader

GIVE_BACK_BYTES = 1 << 15  # of a stream's window, at once


class Requests:
    """What came of a stream, which a handler takes messages out of, one at a time. It is no more than the window."""

    def __init__(self, stream: Stream, reader: MessageReader) -> None:
        self._stream = stream
        self._reader = reader
        self._more: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Add a piece, perhaps the last one: the stream knows."""
        self._reader.add(data)
        if self._more is not None:
            if not self._more.done():  # its handler may have been cancelled in this turn of the loop
                self._more.set_result(None)
            self._more = None

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield the messages. The peer may send no more than the window until they are taken."""
        taken, stream, reader = 0, self._stream, self._reader
        while True:
            held = reader.held
            message = reader.take()
            if message is not None:
                taken += held - reader.held
                if taken >= GIVE_BACK_BYTES:
                    stream.connection.give_back(stream, taken)
                    taken = 0
                yield message
                continue
            if stream.is_asked:
                reader.end()
                return
            self._more = asyncio.get_running_loop().create_future()
            await self._more
