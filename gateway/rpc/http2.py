"""HTTP/2 (RFC 9113) between Envoy and this process: frames, streams and windows, and nothing of gRPC.

The peer is our own Envoy on a Unix socket. It is what faces strangers, and it holds them to the
limits in ``rpc/envoy.py``; here every byte that breaks the protocol ends the connection. All frames
of one read are handled together and everything they give rise to leaves in one write.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

import structlog

from gateway.rpc.header_block import BlockBroken

log = structlog.get_logger()

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME_SIZE = 1, 3, 4, 5
NO_ERROR, PROTOCOL_ERROR, CANCEL = 0, 1, 8

FRAME_BYTES = 16_384  # the longest payload that either side may send unasked
MOST_BLOCK_BYTES = 1 << 18
MOST_WINDOW = 2**31 - 1
CONNECTION_WINDOW = 1 << 30
GIVE_BACK_BYTES = 1 << 26  # of the connection's window, at once
UNSENT_BYTES = 1 << 16  # of one stream; who writes more than this waits
_HEAD = struct.Struct(">BHBBI")
_TWO = struct.Struct(">HI")


class PeerBroken(Exception):
    """The peer sent what HTTP/2 does not allow."""


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """Write one frame."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


class Stream:
    """One request and its answer. A subclass says what is made of it: ``on_headers``, ``on_data``, ``on_reset``."""

    __slots__ = ("_unsent", "_waiting", "connection", "is_answered", "is_asked", "number", "window")

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.number = number
        self.window = connection.stream_window  # what the peer lets us send
        self.is_asked = False  # the peer has sent everything
        self.is_answered = False
        self._unsent: deque[tuple[bytes, bool]] | None = None  # payloads, and whether each is a header block
        self._waiting: asyncio.Future[None] | None = None

    def on_headers(self, block: bytes, is_last: bool) -> None:
        """Take the request's header block."""

    def on_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the request."""

    def on_reset(self) -> None:
        """The peer wants no answer any more."""

    def send(self, data: bytes) -> None:
        """Send a piece of the answer, as far as the windows let it, and the rest later."""
        if self._unsent is None:
            sent = self.connection.send_data(self, data)
            if sent == len(data):
                return
            self._unsent = deque()
            data = data[sent:]
        self._unsent.append((data, False))
        self.connection.blocked[self.number] = self

    def end(self, block: bytes) -> None:
        """End the answer with a header block, after everything that was sent."""
        self.is_answered = True
        if self._unsent is not None:
            self._unsent.append((block, True))
            return
        self.connection.finish(self, block)

    async def drained(self) -> None:
        """Wait while too much is unsent, which is while the caller does not read."""
        while self._unsent is not None and sum(len(data) for data, _ in self._unsent) > UNSENT_BYTES:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        await self.connection.writable()

    def on_window(self) -> None:
        """Send what waits, as far as it goes now."""
        while self._unsent:
            data, is_block = self._unsent.popleft()
            if is_block:
                self.connection.finish(self, data)
                continue
            sent = self.connection.send_data(self, data)
            if sent < len(data):
                self._unsent.appendleft((data[sent:], False))
                break
        if not self._unsent:
            self._unsent = None
            self.connection.blocked.pop(self.number, None)
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


Opened = Callable[["Connection", int], Stream]


class Connection(asyncio.Protocol):
    """One connection of the peer. ``opened(connection, number)`` makes the stream of a request that begins.

    ``lost(connection)`` is called once, at its end.

    ``receive_window`` is what a peer may send of one stream before any of it is taken.
    """

    def __init__(self, opened: Opened, receive_window: int, lost: "Callable[[Connection], None]") -> None:
        self._opened = opened
        self._lost = lost
        self._receive_window = receive_window
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._is_greeted = False
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._block: tuple[int, int, bytes] | None = None  # headers that go on: stream, flags, what came
        self._received = 0
        self._window = 65_535
        self._outgoing: list[bytes] = []
        self._unpaused: asyncio.Future[None] | None = None
        self.stream_window = 65_535
        self.blocked: dict[int, Stream] = {}

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we keep to."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing
        promised = ((HEADER_TABLE_SIZE, 0), (MAX_STREAMS, MOST_WINDOW), (INITIAL_WINDOW, self._receive_window))
        hello = frame(SETTINGS, 0, 0, b"".join(_TWO.pack(*pair) for pair in promised))
        self._transport.write(hello + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", CONNECTION_WINDOW)))

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody waits for any stream of this connection."""
        self._transport = None
        self._outgoing.clear()
        self.resume_writing()
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._lost(self)

    def pause_writing(self) -> None:
        """Have streams wait: the peer does not read."""
        if self._unpaused is None:
            self._unpaused = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let streams go on."""
        if self._unpaused is not None:
            self._unpaused.set_result(None)
            self._unpaused = None

    async def writable(self) -> None:
        """Wait while the peer does not read."""
        if self._unpaused is not None:
            await asyncio.shield(self._unpaused)

    def data_received(self, data: bytes) -> None:
        """Handle every frame that is whole."""
        try:
            self._pending = self._frames(self._pending + data if self._pending else data)
        except (PeerBroken, BlockBroken) as error:
            log.error("http2_peer_broken", error=str(error))
            if self._transport is not None:
                self._flush()
                self._transport.write(frame(GOAWAY, 0, 0, struct.pack(">II", self._last, PROTOCOL_ERROR)))
                self._transport.close()
            return
        if self._received > GIVE_BACK_BYTES:
            self.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    # What streams call

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def send_data(self, stream: Stream, data: bytes) -> int:
        """Send of a stream what both windows let through; returns how much that was."""
        allowed = min(len(data), self._window, stream.window)
        for at in range(0, allowed, FRAME_BYTES):
            self.write(frame(DATA, 0, stream.number, data[at : min(at + FRAME_BYTES, allowed)]))
        if allowed > 0:
            self._window -= allowed
            stream.window -= allowed
        return max(allowed, 0)

    def send_whole(self, stream: Stream, frames: bytes, size: int) -> bool:
        """Send frames that hold a whole answer, ``size`` bytes of it in the windows; False where they do not fit."""
        if size > self._window or size > stream.window or stream.is_answered:
            return False
        self._window -= size
        stream.is_answered = True
        self.write(frames)
        self._gone(stream)
        return True

    def finish(self, stream: Stream, block: bytes) -> None:
        """Send a stream's last header block."""
        flags = END_STREAM
        for at in range(0, max(len(block), 1), FRAME_BYTES):
            piece = block[at : at + FRAME_BYTES]
            is_whole = at + FRAME_BYTES >= len(block)
            kind = CONTINUATION if at else HEADERS
            self.write(frame(kind, flags | (END_HEADERS if is_whole else 0), stream.number, piece))
            flags = 0
        self._gone(stream)

    def give_back(self, stream: Stream, size: int) -> None:
        """Let the peer send so much more of a stream."""
        if size and not stream.is_asked:
            self.write(frame(WINDOW_UPDATE, 0, stream.number, struct.pack(">I", size)))

    def close(self) -> None:
        """Take no new streams and end when the last one has."""
        if self._transport is not None:
            self._flush()
            self._transport.write(frame(GOAWAY, 0, 0, struct.pack(">II", self._last, NO_ERROR)))
            self._transport.close()

    # Frames

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _gone(self, stream: Stream) -> None:
        """Forget a stream that was answered; one whose request still comes is told to stop."""
        if self._streams.pop(stream.number, None) is not None and not stream.is_asked:
            self.write(frame(RST_STREAM, 0, stream.number, struct.pack(">I", NO_ERROR)))

    def _drop(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        stream.is_asked = True
        stream.forget()
        stream.on_reset()

    def _frames(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        if not self._is_greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise PeerBroken("it does not speak HTTP/2")
            if end < len(PREFACE):
                return data
            at, self._is_greeted = len(PREFACE), True
        unpack, streams = _HEAD.unpack_from, self._streams
        while end - at >= 9:
            high, low, kind, flags, number = unpack(data, at)
            length = (high << 16) + low
            if length > FRAME_BYTES:
                raise PeerBroken(f"a frame of {length} bytes, expected at most {FRAME_BYTES}")
            after = at + 9 + length
            if after > end:
                break
            if self._block is not None and kind != CONTINUATION:
                raise PeerBroken("headers are not gone on with")
            if kind == DATA:
                self._received += length
                stream = streams.get(number)
                if stream is not None:
                    if stream.is_asked:
                        raise PeerBroken("data after the end")
                    piece = data[at + 9 : after]
                    if flags & PADDED:
                        piece = _unpadded(piece)
                    is_last = bool(flags & END_STREAM)
                    stream.is_asked = is_last
                    stream.on_data(piece, is_last)
            elif kind == HEADERS:
                self._headers(flags, number, data[at + 9 : after])
            else:
                self._other(kind, flags, number, data[at + 9 : after])
            at = after
        return data[at:]

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & (PADDED | PRIORITY):
            payload = _unpadded(payload) if flags & PADDED else payload
            payload = payload[5:] if flags & PRIORITY else payload
        if not flags & END_HEADERS:
            self._block = (number, flags, payload)
            return
        stream = self._streams.get(number)
        if stream is not None:  # trailers: gRPC has none from callers, and they may be ignored
            if not flags & END_STREAM or stream.is_asked:
                raise PeerBroken("headers inside a request")
            stream.is_asked = True
            stream.on_data(b"", True)
            return
        if number <= self._last or not number & 1:
            if number & 1:
                return  # of a stream that is over here
            raise PeerBroken(f"a request on stream {number}")
        self._last = number
        is_last = bool(flags & END_STREAM)
        stream = self._streams[number] = self._opened(self, number)
        stream.is_asked = is_last
        stream.on_headers(payload, is_last)

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._more(number, payload)
        elif kind == RST_STREAM:
            stream = self._streams.get(number)
            if stream is not None:
                self._drop(stream)
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise PeerBroken("headers go on that did not begin")
            _, begun, block = self._block
            block += payload
            if len(block) > MOST_BLOCK_BYTES:
                raise PeerBroken(f"headers of more than {MOST_BLOCK_BYTES} bytes")
            self._block = (number, begun, block)
            if flags & END_HEADERS:
                self._block = None
                self._headers((begun & END_STREAM) | END_HEADERS, number, block)
        elif kind == PUSH_PROMISE:
            raise PeerBroken("a promise from a client")

    def _more(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerBroken("a window update of another size than 4 bytes")
        more = int.from_bytes(payload, "big") & MOST_WINDOW
        if number:
            stream = self._streams.get(number)
            if stream is not None:
                stream.window += more
                if number in self.blocked:
                    stream.on_window()
            return
        self._window += more
        if self._window > MOST_WINDOW:
            raise PeerBroken("a window of more than 2**31 - 1 bytes")
        self._unblock()

    def _unblock(self) -> None:
        for stream in list(self.blocked.values()):
            if self._window <= 0:
                return
            stream.on_window()

    def _settings(self, payload: bytes) -> None:
        if len(payload) % 6:
            raise PeerBroken("settings of a size that is no multiple of 6")
        for name, value in _TWO.iter_unpack(payload):
            if name == INITIAL_WINDOW:
                if value > MOST_WINDOW:
                    raise PeerBroken("a window of more than 2**31 - 1 bytes")
                for stream in self._streams.values():
                    stream.window += value - self.stream_window
                self.stream_window = value
        self.write(frame(SETTINGS, ACK, 0))
        self._unblock()


def _unpadded(payload: bytes) -> bytes:
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise PeerBroken("padding of more than the payload")
    return payload[1 : len(payload) - padding]
