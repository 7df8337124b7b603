"""What is said on an HTTP/2 connection: joined writes, a peer that does not read, and how it ends."""

import asyncio
from typing import cast

from gateway.rpc.http2_frames import NO_ERROR, farewell, goaway
from gateway.rpc.http2_stream import Stream


class Output(asyncio.Protocol):
    """One connection's way out, and its end.

    A stranger who does not read what is said is not read either, or it could have us say ever more.
    """

    def __init__(self, *, is_stranger: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.ended: float | None = None  # since when nothing is said and nothing is heard
        self.is_greeted = False
        self._is_stranger = is_stranger
        self._is_told = False  # that we leave
        self._parted: int | None = None  # the last stream that the peer knows to be answered
        self._last = 0
        self._streams: dict[int, Stream] = {}
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._is_reading = False
        self._unpaused: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have somewhere to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing

    def connection_lost(self, error: Exception | None) -> None:
        """Have nowhere to write: nobody waits until the peer reads."""
        self._transport = None
        self._outgoing.clear()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Have streams wait: the peer does not read."""
        if self._unpaused is None:
            self._unpaused = self.loop.create_future()
            if self._is_stranger and self._transport is not None:
                self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Let streams go on."""
        if self._unpaused is not None:
            self._unpaused.set_result(None)
            self._unpaused = None
            if self._is_stranger and self._transport is not None:
                self._transport.resume_reading()

    async def writable(self) -> None:
        """Wait while the peer does not read."""
        if self._unpaused is not None:
            await asyncio.shield(self._unpaused)

    def write(self, data: bytes) -> None:
        """Send bytes: at the end of the read that gave rise to them, else of this turn of the loop."""
        if not self._outgoing and not self._is_reading:
            self.loop.call_soon(self._flush)
        self._outgoing.append(data)

    def leave(self) -> None:
        """Take no new streams and end with the last one; what the peer begins then it may ask of others.

        Until it says that it has heard, it may begin more: what is on its way is not lost (RFC 9113, 6.8).
        """
        if self._transport is not None and not self._is_told:
            self._is_told = True
            self.write(farewell())
            if not self.is_greeted:
                self._part()

    def close(self) -> None:
        """End now, once what was written is sent."""
        self._part()
        self._end(is_in_order=False)

    def abort(self) -> None:
        """End now, whatever is not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def _part(self) -> None:
        if self._parted is None:
            self._parted = self._last
            self.write(goaway(self._last, NO_ERROR))

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing and self.ended is None:
            if self._parted is not None and not self._streams:
                self._end(is_in_order=True)
            else:
                self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _end(self, *, is_in_order: bool) -> None:
        """Say the last. In order, the peer closes: who sends to a closed socket may lose what it has not read."""
        if self._transport is None:
            return
        if self.ended is None:
            self.ended = self.loop.time()
            self._transport.write(b"".join(self._outgoing))
        if is_in_order:
            self._transport.write_eof()
        else:
            self._transport.close()
