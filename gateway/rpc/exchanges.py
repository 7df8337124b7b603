"""gRPC over HTTP/2: the method table as Envoy or callers see it. Every path ends a call with exactly one status.

A unary call costs no task (``rpc/step.py``): its handler begins once all that has come is read, so that calls
beyond the limit are refused before any work is done, and goes on when what it waits for is there.
"""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, cast

from gateway.errors import FramingBroken, UnknownMethod
from gateway.rpc.asked import Asked, Headings
from gateway.rpc.header_block import TooManyFields, write_block
from gateway.rpc.http2 import Connection
from gateway.rpc.http2_frames import DATA, END_HEADERS, END_STREAM, FRAME_BYTES, HEADERS, MOST_WINDOW, Refusal
from gateway.rpc.http2_frames import frame as http2_frame
from gateway.rpc.http2_limits import OUR_ENVOY, Limits
from gateway.rpc.http2_stream import Stream
from gateway.rpc.introduced import Introduced
from gateway.rpc.local import LOCAL, LOCAL_CALLS
from gateway.rpc.requests import Requests
from gateway.rpc.stamp import waited_s
from gateway.rpc.status import BUSY, INTERRUPTED, LATE, OK, Status, status_of
from gateway.rpc.step import Step
from gateway.rpc.wire import (
    PREFIX,
    BidiStream,
    Call,
    Kind,
    MessageReader,
    Method,
    ServerStream,
    closing,
    frame,
    percent_encode,
)

LOOK_S = 0.01  # how often calls are looked at: is the deadline over?
UPLOAD_S = 10.0  # how long a caller may take over sending a request, whatever deadline it named
# A handler knows the deadline and answers by it; this much later the front answers for it.
GRACE_S = 0.005
ANSWERS_A_TURN = 16  # of one stream, however ready they are: other calls have their turn
MOST_HEADER_BYTES = 1 << 14  # of a caller's own; our Envoy has its own limit and adds to them


def _status_fields(status: Status) -> list[tuple[bytes, bytes]]:
    fields = [(b"grpc-status", b"%d" % status.code.value[0])]
    if status.message:
        fields.append((b"grpc-message", percent_encode(status.message)))
    return fields + [(name.encode(), value.encode()) for name, value in status.trailing]


_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip"))
_START = write_block(_HEADERS)
_START_GZIPPED = write_block((*_HEADERS, (b"grpc-encoding", b"gzip")))
_OK = write_block(((b"grpc-status", b"0"),))
_NO_CALLS = {status: Refusal(write_block(((b":status", b"%d" % status),))) for status in (400, 415)}
_TOO_MANY_HEADERS = Refusal(write_block(((b":status", b"431"),)))
_BUSY = Refusal(write_block((*_HEADERS, *_status_fields(BUSY))))
# The three frames of an answer but for its bytes: headers; the head of the data and of the message in it; trailers.
_BEFORE = struct.Struct(f">5sI{len(_START)}sBHHIBI")
_AFTER = struct.Struct(f">5sI{len(_OK)}s")
_START_HEAD = http2_frame(HEADERS, END_HEADERS, 0, _START)[:5]
_Unary = Callable[[Call, bytes], Coroutine[Any, Any, bytes]]  # written here once: to make such a type takes 4 us
_OK_HEAD = http2_frame(HEADERS, END_HEADERS | END_STREAM, 0, _OK)[:5]


class GrpcServer:
    """Serves a method table to connections. Use from one event loop.

    ``limits`` say whose they are: only of our own Envoy is believed when a call came, and whose certificate it bears.
    What is open beyond ``max_calls`` is refused before anything but its headers is read; Envoy does that by itself.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        max_message_bytes: int = 262_144,
        limits: Limits = OUR_ENVOY,
        max_calls: int = MOST_WINDOW,
    ) -> None:
        self.methods = {method.path: method for method in methods}
        self.max_message_bytes = max_message_bytes
        self.max_calls = max_calls
        self.is_envoy = limits is OUR_ENVOY
        self._limits = limits
        self.running: dict[_Exchange, None] = {}  # in the order they began
        self.refused = 0  # calls for which there was no room
        self.connections: dict[Connection, None] = {}  # in the order they began
        self._server: asyncio.Server | None = None
        self._headings = Headings(self.methods, is_envoy=self.is_envoy)
        self._is_looking = False

    @property
    def in_flight(self) -> int:
        """How many calls have not ended."""
        return len(self.running)

    async def listen(self, path: str) -> None:
        """Take connections on a Unix socket: our Envoy's, or those that it passes on, each with its PROXY header."""
        make = self.connect if self.is_envoy else partial(Introduced, self.connect)
        self._server = await asyncio.get_running_loop().create_unix_server(make, path)

    def connect(self) -> Connection:
        """Make the protocol of one connection."""
        window = 2 * self.max_message_bytes + (1 << 16)  # a whole message fits however much of it is owed
        connection = Connection(self._open, window, self._lost, self._limits)
        self.connections[connection] = None
        return connection

    def _lost(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    def end_one_without_calls(self) -> bool:
        """End the oldest connection that has no call open, and cut it off where it was ended already."""
        busy = {exchange.connection for exchange in self.running}
        idle = next((connection for connection in self.connections if connection not in busy), None)
        if idle is not None:
            (idle.close if idle.ended is None else idle.abort)()
        return idle is not None

    async def close(self) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        for exchange in list(self.running):
            exchange.on_reset()

    def _open(self, connection: Connection, number: int, block: bytes) -> "_Exchange | Refusal":
        """Make the exchange of a call, or refuse what can be refused now."""
        if len(block) > MOST_HEADER_BYTES and not self.is_envoy:
            return _TOO_MANY_HEADERS
        try:
            asked, given_s = self._headings.read(block)
        except TooManyFields:
            return _TOO_MANY_HEADERS
        room = self.max_calls - len(self.running)
        if room <= 0 and not (asked.path.startswith(LOCAL) and (room > -LOCAL_CALLS or self._makes_room())):
            self.refused += 1
            return _BUSY
        if asked.http_status != 200:
            return _NO_CALLS[asked.http_status]
        return _Exchange(self, connection, number, asked, given_s)

    def _makes_room(self) -> bool:
        """Give an order the place of one that has only begun, or whoever begins some would keep all others out."""
        return any(exchange.gives_way() for exchange in list(self.running))

    def began(self, exchange: "_Exchange") -> None:
        """Count a call."""
        self.running[exchange] = None
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """End what is late."""
        now = time.monotonic()
        for exchange in list(self.running):
            if exchange.give_up_at is not None and now >= exchange.give_up_at:
                exchange.late()
        self._is_looking = bool(self.running)
        if self._is_looking:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)


class _Exchange(Stream):
    """One call: what came of it, the work, the answer."""

    __slots__ = (
        "_asked",
        "_call",
        "_given_s",
        "_has_begun_answer",
        "_is_gzip",
        "_is_late",
        "_is_over",
        "_messages",
        "_reader",
        "_requests",
        "_server",
        "_work",
        "began",
        "give_up_at",
    )

    def __init__(
        self, server: GrpcServer, connection: Connection, number: int, asked: Asked, given_s: float | None
    ) -> None:
        super().__init__(connection, number)
        self._server = server
        self._asked = asked
        self._given_s = given_s
        self._has_begun_answer = self._is_gzip = self._is_late = self._is_over = False
        self._reader: MessageReader | None = None
        self._work: asyncio.Task[None] | Step | None = None

    # What comes

    def on_headers(self, block: bytes, is_last: bool) -> None:
        """Begin; a call with a stream of requests starts at once."""
        server, asked = self._server, self._asked
        now = time.monotonic()
        self.began = began = now - waited_s(block) if server.is_envoy else now
        self.give_up_at: float | None = began + UPLOAD_S
        server.began(self)
        method = asked.method
        if asked.error is not None or method is None:
            self._end(status_of(asked.error or UnknownMethod(asked.path), asked.path))
            return
        deadline: float | None = None
        if self._given_s is not None:
            deadline = began + self._given_s
            if self._given_s < UPLOAD_S:
                self.give_up_at = deadline + GRACE_S
            if now >= deadline:
                self._end(LATE)  # nobody waits any more, and others do
                return
        self._call = Call(asked.path, asked.metadata, deadline, "", asked.identity or self.connection.identity, began)
        if method.kind is Kind.BIDI_STREAM:
            self._has_come()
            self._requests = Requests(self, MessageReader(asked.encoding, server.max_message_bytes))
            self._start(self._stream(cast(BidiStream, method.handler)(self._call, self._requests.messages())))
        elif is_last:
            self.on_data(b"", True)

    def on_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the request; the last one of a unary request starts the work."""
        if self._is_over:
            return
        method = self._asked.method
        assert method is not None
        if method.kind is Kind.BIDI_STREAM:
            self._requests.put(data)
            return
        try:
            payload = self._only_message(data, is_last)
        except Exception as error:
            self._end(status_of(error, self._asked.path))
            return
        if payload is None:
            return
        call = self._call
        self._has_come()
        if method.kind is Kind.SERVER_STREAM:
            self._start(self._stream(cast(ServerStream, method.handler)(call, payload)))
            return
        handler = cast(_Unary, method.handler)
        step = self._work = Step(handler(call, payload), self._answered, self.connection.loop)
        step.begin()

    def _has_come(self) -> None:
        """From now on only the handler takes time."""
        deadline = self._call.deadline
        self.give_up_at = None if deadline is None else deadline + GRACE_S

    def on_reset(self) -> None:
        """Nobody waits any more: stop the work."""
        if not self._is_over:
            self._forgotten()
            if self._work is not None:
                self._work.cancel()

    def late(self) -> None:
        """Answer for a handler that has not, or for a caller who has not sent everything."""
        if self._is_over or self._is_late:
            return
        self._is_late = True
        if self._work is None:
            self._end(LATE)
        else:
            self._work.cancel()

    def gives_way(self) -> bool:
        """End an order that has not come yet."""
        is_waiting = self._work is None and self._asked.path.startswith(LOCAL)
        if is_waiting:
            self._end(BUSY)
        return is_waiting

    def _only_message(self, data: bytes, is_last: bool) -> bytes | None:
        """Return a request's message once it is whole; raises FramingBroken and what a MessageReader raises."""
        reader = self._reader
        if reader is None:
            if is_last and len(data) >= PREFIX.size:  # the rule: one piece, not compressed
                flag, length = PREFIX.unpack_from(data)
                if flag == 0 and length == len(data) - PREFIX.size <= self._server.max_message_bytes:
                    return data[PREFIX.size :]
            reader = self._reader = MessageReader(self._asked.encoding, self._server.max_message_bytes)
            self._messages: list[bytes] = []
            self._is_gzip = data[:1] == b"\x01"
        reader.add(data)
        messages = self._messages
        while len(messages) < 2 and (message := reader.take()) is not None:
            messages.append(message)
        if len(messages) < 2:
            if not is_last:
                return None
            reader.end()
        if len(messages) != 1:
            raise FramingBroken(f"the request has {len(messages)} messages or more, expected one")
        return messages[0]

    # What is done

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._work = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)

    async def _stream(self, answers: AsyncIterator[bytes]) -> None:
        told = 0
        async with closing(answers):
            async for answer in answers:
                if self._is_over:
                    return
                told += 1
                if not told % ANSWERS_A_TURN:
                    await asyncio.sleep(0)
                self._begin_answer()
                self.send(frame(answer, compress=self._is_gzip))
                await self.drained()
        self._end(OK)

    def _answered(self, payload: bytes | None, error: BaseException | None) -> None:
        if payload is not None:
            self._answer(payload)
        elif error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._end(LATE if self._is_late else INTERRUPTED)
        else:
            self._end(status_of(error, self._asked.path))

    # What goes

    def _answer(self, payload: bytes) -> None:
        """Send the only answer of a call that went well."""
        if self._is_over:
            return
        size, number = len(payload) + PREFIX.size, self.number
        if size <= FRAME_BYTES and not self._is_gzip:
            before = _BEFORE.pack(
                _START_HEAD, number, _START, size >> 16, size & 0xFFFF, DATA << 8, number, 0, len(payload)
            )
            frames = b"".join((before, payload, _AFTER.pack(_OK_HEAD, number, _OK)))
            if self.connection.send_whole(self, frames, size):
                self._forgotten()
                return
        self._begin_answer()
        self.send(frame(payload, compress=self._is_gzip))
        self._end(OK)

    def _begin_answer(self) -> None:
        if not self._has_begun_answer:
            self._has_begun_answer = True
            block = _START_GZIPPED if self._is_gzip else _START
            self.connection.write(http2_frame(HEADERS, END_HEADERS, self.number, block))

    def _end(self, status: Status) -> None:
        """End the call; without an answer before it, in headers alone (Trailers-Only)."""
        if self._is_over:
            return
        self._forgotten()
        fields = _status_fields(status)
        super().end(write_block(fields if self._has_begun_answer else (*_HEADERS, *fields)))

    def _forgotten(self) -> None:
        self._is_over = True
        self._server.running.pop(self, None)
