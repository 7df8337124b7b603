"""One request and its answer on an HTTP/2 connection: what waits for the peer's window, and who waits with it."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.rpc.http2 import Connection

UNSENT_BYTES = 1 << 16  # of one stream; who writes more than this waits


class Stream:
    """One request and its answer. A subclass says what is made of it: ``on_headers``, ``on_data``, ``on_reset``."""

    __slots__ = (
        "_ending",
        "_unsent",
        "_waiting",
        "connection",
        "is_answered",
        "is_asked",
        "number",
        "owed",
        "window",
    )

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self.window = connection.stream_window  # what the peer lets us send
        self.owed = connection.receive_window  # what we let the peer send
        self.is_asked = False  # the peer has sent everything
        self.is_answered = False
        self._unsent: bytearray | None = None
        self._waiting: asyncio.Future[None] | None = None

    def on_headers(self, block: bytes, is_last: bool) -> None:
        """Take the request's header block."""

    def on_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the request."""

    def on_reset(self) -> None:
        """The peer wants no answer any more."""

    def send(self, data: bytes) -> None:
        """Send a piece of the answer, as far as the windows let it, and the rest later."""
        if self._unsent is not None:
            self._unsent += data
            return
        sent = self.connection.send_data(self, data)
        if sent < len(data):
            self._unsent = bytearray(data[sent:])
            self._ending: bytes | None = None  # the header block that comes after what is unsent

    def end(self, block: bytes) -> None:
        """End the answer with a header block, after everything that was sent."""
        self.is_answered = True
        if self._unsent is not None:
            self._ending = block
            return
        self.connection.finish(self, block)

    async def drained(self) -> None:
        """Wait while too much is unsent, which is while the caller does not read."""
        while self._unsent is not None and len(self._unsent) > UNSENT_BYTES:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        await self.connection.writable()

    def on_window(self) -> None:
        """Send what waits, as far as it goes now."""
        unsent = self._unsent
        if unsent is None:
            return
        del unsent[: self.connection.send_data(self, unsent)]
        if not unsent:
            self._unsent = None
            if self._ending is not None:
                self.connection.finish(self, self._ending)
        if len(unsent) <= UNSENT_BYTES:
            self._wake()

    def forget(self) -> None:
        """Drop what was not sent: nobody wants it."""
        self._unsent = None
        self.connection.blocked.pop(self.number, None)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None
