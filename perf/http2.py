"""One HTTP/2 connection that sends the same gRPC call over and over, as cheaply as Python can.

The calls of a benchmark differ in nothing but their stream number, so a request is two fixed byte
strings and a number. Peers are told to keep no header table, so equal header blocks mean equal
headers and each is decoded once. That leaves about a tenth of what ``grpc.aio`` spends on a call,
and the generator stays far from being what is measured.
"""

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable

from hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW = 1, 2, 3, 4
MOST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
STREAMS_UNTIL_TOLD = 100  # what RFC 9113 asks servers to allow at least
READ_BYTES = 1 << 18
CANCEL = struct.pack(">I", 8)
_HEAD = struct.Struct(">BHBBI")
_CACHED_BLOCKS = 4096

Done = Callable[[int, str, bytes], None]


class ProtocolBroken(Exception):
    """The peer sent something that this client, made for one purpose, does not expect."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Write one frame."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Write a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def literal_headers(headers: list[tuple[str, str]]) -> bytes:
    """Write a header block that leaves no trace in the peer's header table (RFC 7541, 6.2.2)."""
    block = bytearray()
    for pair in headers:
        block.append(0)
        for text in pair:
            raw = text.encode()
            if len(raw) >= 127:
                raise ValueError(f"header {pair[0]!r} has {len(raw)} bytes, expected fewer than 127")
            block.append(len(raw))
            block += raw
    return bytes(block)


class Call:
    """What is sent, time after time: a unary gRPC call with a fixed message."""

    def __init__(self, authority: str, path: str, message: bytes, budget_s: float | None = None) -> None:
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if budget_s is not None:
            headers.append(("grpc-timeout", f"{round(budget_s * 1e6)}u"))
        block = literal_headers(headers)
        body = b"\0" + struct.pack(">I", len(message)) + message
        if len(body) > 16_384:
            raise ValueError(f"the message has {len(message)} bytes, expected it to fit one frame of 16,384")
        self.window = len(body)
        self._first = frame(HEADERS, END_HEADERS, 0, block)
        self._head, self._block = self._first[:5], block
        self._body_head, self._body = frame(DATA, END_STREAM, 0, body)[:5], body

    def on(self, stream: int) -> bytes:
        """Write the call for one stream."""
        number = stream.to_bytes(4, "big")
        return b"".join((self._head, number, self._block, self._body_head, number, self._body))


class Connection:
    """A non-blocking connection. Every call handed to ``send`` is given to ``done`` exactly once.

    ``done`` gets the call's tag, its status and its message. The status is ``grpc-status`` as text, or
    ``reset``, ``lost`` (the connection ended first) or ``no status``.
    """

    def __init__(self, address: tuple[str, int], call: Call, done: Done) -> None:
        self._address = address
        self._call = call
        self._done = done
        self._told: dict[bytes, dict[str, str]] = {}
        self._decoder = Decoder()
        self._waiting: deque[int] = deque()
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(self._address, 5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            # BBR, the default of some machines, paces on the loopback and can hold a connection back for seconds.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        self.socket.setblocking(False)
        hello = settings((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW, MOST_WINDOW))
        hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MOST_WINDOW - DEFAULT_WINDOW))
        self._outgoing = bytearray(PREFACE + hello)
        self._incoming = b""
        self._streams: dict[int, int] = {}
        self._of_tag: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._received = 0
        self._most_streams = STREAMS_UNTIL_TOLD
        self._is_leaving = False
        self.is_open = True

    def fileno(self) -> int:
        """Let ``select`` wait for this connection."""
        return self.socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for room in the socket."""
        return bool(self._outgoing)

    @property
    def load(self) -> int:
        """How many calls are here, sent or waiting."""
        return len(self._streams) + len(self._waiting)

    def send(self, tag: int) -> None:
        """Start a call, or line it up behind the peer's limits."""
        self._waiting.append(tag)

    def abandon(self, tag: int) -> None:
        """Stop waiting for a call: take it out of line, or reset its stream. ``done`` is not called."""
        stream = self._of_tag.pop(tag, None)
        if stream is None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(tag)
            return
        del self._streams[stream]
        self._bodies.pop(stream, None)
        self._outgoing += frame(RST_STREAM, 0, stream, CANCEL)

    def flush(self) -> None:
        """Write what the peer's limits and the socket take."""
        if not self.is_open or (self._is_leaving and not self._streams):
            self._reconnect()
        waiting, window, most = self._waiting, self._call.window, self._most_streams
        if waiting and not self._is_leaving:
            parts = []
            while waiting and len(self._streams) < most and self._window >= window:
                tag, stream = waiting.popleft(), self._next
                self._next = stream + 2
                self._streams[stream] = tag
                self._of_tag[tag] = stream
                self._window -= window
                parts.append(self._call.on(stream))
            self._outgoing += b"".join(parts)
        if self._outgoing:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                self._lose()
                return
            del self._outgoing[:sent]

    def receive(self) -> None:
        """Read what has arrived and report every call it ends."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        pending = self._incoming + data if self._incoming else data
        at, end = 0, len(pending)
        while end - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(pending, at)
            after = at + 9 + (high << 16) + low
            if after > end:
                break
            if kind == DATA:
                self._data(stream, flags, pending[at + 9 : after])
            elif kind == HEADERS:
                self._headers(stream, flags, pending[at + 9 : after])
            else:
                self._other(kind, flags, stream, pending[at + 9 : after])
            at = after
        self._incoming = pending[at:]

    def close(self) -> None:
        """Drop the connection and everything in flight."""
        self.is_open = False
        self.socket.close()

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > 1 << 28:
            self._outgoing += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0
        if stream in self._streams:
            before = self._bodies.get(stream)
            self._bodies[stream] = payload if before is None else before + payload
            if flags & END_STREAM:
                self._end(stream, "no status")

    def _headers(self, stream: int, flags: int, block: bytes) -> None:
        if flags & (PADDED | PRIORITY) or not flags & END_HEADERS:
            raise ProtocolBroken(f"header flags are {flags:#x}, expected a whole block without padding or priority")
        headers = self._told.get(block)
        if headers is None:
            headers = self._decode(block)
        if flags & END_STREAM and stream in self._streams:
            self._end(stream, headers.get("grpc-status", "no status"))

    def _decode(self, block: bytes) -> dict[str, str]:
        try:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
        except HPACKError as error:
            raise ProtocolBroken(f"the peer keeps a header table although told not to: {error}") from error
        if len(self._told) >= _CACHED_BLOCKS:  # a date among the headers makes new blocks for ever
            self._told.clear()
        self._told[block] = headers
        return headers

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            if stream == 0:
                self._window += struct.unpack(">I", payload)[0]
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == MAX_STREAMS:
                    self._most_streams = value
                elif name == INITIAL_WINDOW and value < self._call.window:
                    raise ProtocolBroken(f"the peer's stream window is {value}, expected at least {self._call.window}")
            self._outgoing += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self._outgoing += frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM and stream in self._streams:
            self._end(stream, "reset")
        elif kind == GOAWAY:
            last = struct.unpack_from(">I", payload)[0]
            self._is_leaving = True
            for unseen in [s for s in self._streams if s > last]:
                self._end(unseen, "lost")

    def _end(self, stream: int, status: str) -> None:
        tag = self._streams.pop(stream)
        del self._of_tag[tag]
        self._done(tag, status, self._bodies.pop(stream, b""))

    def _lose(self) -> None:
        self.close()
        for stream in list(self._streams):
            self._end(stream, "lost")

    def _reconnect(self) -> None:
        self.socket.close()
        self._decoder, self._told = Decoder(), {}
        try:
            self._connect()
        except OSError:
            self.is_open = False
            while self._waiting:
                self._done(self._waiting.popleft(), "lost", b"")
