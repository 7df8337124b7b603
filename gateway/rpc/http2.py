"""HTTP/2 (RFC 9113), the server's side: connections, streams and windows, and nothing of gRPC.

The peer is our own Envoy, which holds strangers to the limits of its bootstrap, or a caller itself, held to
``Limits``. Every byte that breaks the protocol ends the connection. All frames of one read are handled together
and everything they give rise to at once leaves in one write.
"""

import asyncio
from collections.abc import Callable

import structlog

from gateway.rpc.header_block import BlockBroken
from gateway.rpc.header_table import HeaderTable
from gateway.rpc.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEAD,
    HEADERS,
    HEARD,
    MOST_WINDOW,
    NO_ERROR,
    OF_CONNECTIONS,
    PADDED,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SURROUNDED,
    WINDOW_UPDATE,
    PeerBroken,
    Refusal,
    frame,
    goaway,
    header_block,
    hello,
    initial_window,
    last_headers,
    more_window,
    reset,
    unpadded,
    widened,
    window_update,
)
from gateway.rpc.http2_limits import GRANTS_AN_ANSWER, MOST_PIECES, NOISE_AN_ANSWER, OUR_ENVOY, Limits
from gateway.rpc.http2_output import Output
from gateway.rpc.http2_stream import Stream

log = structlog.get_logger()

Opened = Callable[["Connection", int, bytes], Stream | Refusal]


class Connection(Output):
    """One connection of the peer. ``opened(connection, number, block)`` makes the stream of a request that begins, or
    says how it ends at once: what is refused for its headers is never a stream, and costs as little as can be.

    ``lost(connection)`` is called once, at its end.

    ``receive_window`` is what a peer may send of one stream before any of it is taken.
    """

    def __init__(
        self,
        opened: Opened,
        receive_window: int,
        lost: "Callable[[Connection], None]",
        limits: Limits = OUR_ENVOY,
    ) -> None:
        super().__init__(is_stranger=limits is not OUR_ENVOY)
        self._opened = opened
        self._lost = lost
        self._limits = limits
        self.receive_window = receive_window
        self._table = HeaderTable(limits.block_bytes) if self._is_stranger else None
        self.noise = 0
        self.identity = ""  # what the caller's certificate names, where the connection says
        self._pieces = 0
        self._pending = b""
        self._block: tuple[int, int, bytes] | None = None  # headers that go on: stream, flags, what came
        self._received = 0
        self._window = 65_535
        self._grants = 0
        self.stream_window = 65_535
        self.blocked: dict[int, Stream] = {}  # by the connection's window, and not by their own

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we keep to."""
        super().connection_made(transport)
        limits = self._limits
        said = hello(streams=limits.streams, window=self.receive_window, block_bytes=limits.block_bytes)
        self.write(said + window_update(0, limits.window))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody waits for any stream of this connection."""
        super().connection_lost(error)
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        """Handle every frame that is whole; what that gives rise to leaves at once."""
        if self.ended is not None:
            return
        self._is_reading = True
        try:
            self._pending = self._frames(self._pending + data if self._pending else data)
            self._made_noise(0)
            if self._received > self._limits.window >> 4:
                self.write(window_update(0, self._received))
                self._received = 0
        except (PeerBroken, BlockBroken) as error:
            if not self._is_stranger:
                log.error("http2_peer_broken", error=str(error))
            self.write(goaway(self._last if self._parted is None else self._parted, PROTOCOL_ERROR))
            self._end(is_in_order=False)
        finally:
            self._is_reading = False
            self._flush()

    # What streams call

    def send_data(self, stream: Stream, data: bytes | bytearray) -> int:
        """Send of a stream what both windows let through; returns how much that was."""
        allowed = max(0, min(len(data), self._window, stream.window))
        for at in range(0, allowed, FRAME_BYTES):
            self.write(frame(DATA, 0, stream.number, data[at : min(at + FRAME_BYTES, allowed)]))
        self._window -= allowed
        stream.window -= allowed
        if allowed and self.noise:
            self.noise = max(0, self.noise - NOISE_AN_ANSWER)
        if allowed < len(data) and stream.window > 0:
            self.blocked[stream.number] = stream
        return allowed

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
        self.write(last_headers(stream.number, block))
        self._gone(stream)

    def give_back(self, stream: Stream, size: int) -> None:
        """Let the peer send so much more of a stream."""
        if size and not stream.is_asked:
            stream.owed += size
            self.write(window_update(stream.number, size))

    # Frames

    def _gone(self, stream: Stream) -> None:
        """Forget a stream that was answered; one whose request still comes is told to stop."""
        if self.noise:
            self.noise = max(0, self.noise - NOISE_AN_ANSWER)
        if self._streams.pop(stream.number, None) is not None and not stream.is_asked:
            self.write(reset(stream.number, NO_ERROR))

    def _drop(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        if self._parted is not None:
            self.write(b"")  # which ends the connection where this was the last one
        stream.is_asked = True
        stream.forget()
        stream.on_reset()

    def _frames(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        if not self.is_greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise PeerBroken("it does not speak HTTP/2")
            if end < len(PREFACE):
                return data
            at, self.is_greeted = len(PREFACE), True
        unpack, streams = HEAD.unpack_from, self._streams
        while end - at >= 9:
            high, low, kind, flags, number = unpack(data, at)
            length = (high << 16) + low
            number &= MOST_WINDOW  # the bit above is reserved
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
                    stream.owed -= length
                    if stream.is_asked or stream.owed < 0:
                        raise PeerBroken("data after the end, or beyond the window")
                    piece = data[at + 9 : after]
                    stream.is_asked = is_last = bool(flags & END_STREAM)
                    if flags & PADDED:
                        piece = unpadded(piece)
                        self.give_back(stream, length - len(piece))  # nobody takes padding
                    if not piece and not is_last:
                        self._made_noise()
                    stream.on_data(piece, is_last)
                elif number > self._last or not number & 1:
                    raise PeerBroken(f"data on stream {number}, which is not open")
                elif not length:
                    self._made_noise()
            elif kind == HEADERS:
                self._headers(flags, number, data[at + 9 : after])
            else:
                self._other(kind, flags, number, data[at + 9 : after])
            at = after
        return data[at:]

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & SURROUNDED:
            payload = header_block(flags, payload)
        if len(payload) > self._limits.block_bytes:
            raise PeerBroken(f"headers of more than {self._limits.block_bytes} bytes")
        if not flags & END_HEADERS:
            self._block = (number, flags, payload)
            self._pieces = 0
            return
        if self._table is not None:
            payload = self._table.plain(payload)  # of every block, or the next ones would mean something else
        stream = self._streams.get(number)
        if stream is not None:  # trailers: gRPC has none from callers, and they may be ignored
            if not flags & END_STREAM or stream.is_asked:
                raise PeerBroken("headers inside a request")
            stream.is_asked = True
            stream.on_data(b"", True)
            return
        if number <= self._last or not number & 1:
            if number & 1:
                self._made_noise()
                return  # of a stream that is over here
            raise PeerBroken(f"a request on stream {number}")
        self._last = number
        if self._parted is not None:
            self._made_noise()
            return
        if len(self._streams) >= self._limits.streams:
            self.noise += 1
            self.write(reset(number, REFUSED_STREAM))
            return
        is_last = bool(flags & END_STREAM)
        opened = self._opened(self, number, payload)
        if isinstance(opened, Refusal):
            if self.noise:
                self.noise -= 1
            self.write(opened.frames(number, is_last))
            return
        self._streams[number] = opened
        opened.is_asked = is_last
        opened.on_headers(payload, is_last)

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._more(number, payload)
            return
        self._made_noise()
        if number and kind in OF_CONNECTIONS:
            raise PeerBroken(f"a frame of kind {kind} on stream {number}")
        if kind == RST_STREAM:
            if len(payload) != 4 or not 0 < number <= self._last:
                raise PeerBroken(f"a reset of {len(payload)} bytes on stream {number}")
            stream = self._streams.get(number)
            if stream is not None:
                self._drop(stream)
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            if len(payload) != 8:
                raise PeerBroken(f"a ping of {len(payload)} bytes, expected 8")
            self.write(frame(PING, ACK, 0, payload))
        elif kind == PING and payload == HEARD and self._is_told:
            self._part()
        elif kind == CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise PeerBroken("headers go on that did not begin")
            _, begun, block = self._block
            block += payload
            self._pieces += 1
            if len(block) > self._limits.block_bytes or self._pieces > MOST_PIECES:
                raise PeerBroken(f"headers of more than {self._limits.block_bytes} bytes or {MOST_PIECES} pieces")
            self._block = (number, begun, block)
            if flags & END_HEADERS:
                self._block = None
                self._headers((begun & END_STREAM) | END_HEADERS, number, block)
        elif kind == PUSH_PROMISE:
            raise PeerBroken("a promise from a client")

    def _made_noise(self, frames: int = 1) -> None:
        self.noise += frames
        if self.noise > self._limits.noise:
            raise PeerBroken(f"{self._limits.noise} frames more than calls that were answered")

    def _more(self, number: int, payload: bytes) -> None:
        more = more_window(payload)
        self._grants += 1
        if not self._grants % GRANTS_AN_ANSWER:
            self._made_noise()
        if number:
            stream = self._streams.get(number)
            if stream is not None:
                stream.window = widened(stream.window, more)
                stream.on_window()
            return
        self._window = widened(self._window, more)
        for stream in list(self.blocked.values()):
            if self._window <= 0:
                return
            del self.blocked[stream.number]
            stream.on_window()

    def _settings(self, payload: bytes) -> None:
        window = initial_window(payload)
        self.write(frame(SETTINGS, ACK, 0))
        if window is None or window == self.stream_window:
            return
        more, self.stream_window = window - self.stream_window, window
        for stream in list(self._streams.values()):
            stream.window = widened(stream.window, more)
            stream.on_window()
