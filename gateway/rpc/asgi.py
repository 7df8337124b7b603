"""gRPC over ASGI: the method table for a server that speaks only HTTP, such as Envoy with Python inside.

Every path ends a call with exactly one status: an application that only raises would answer 200
without one, and clients would take that for an empty success.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

from gateway.errors import FramingBroken, UnknownMethod
from gateway.rpc.status import INTERRUPTED, LATE, OK, Status, status_of
from gateway.rpc.wire import (
    ARRIVED,
    PREFIX,
    BidiStream,
    Call,
    Kind,
    MessageReader,
    Method,
    ServerStream,
    Unary,
    certificate_name,
    closing,
    frame,
    percent_encode,
    read_metadata,
    timeout_s,
)

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

# How often calls that take longer than this are looked after: has the caller left, is the deadline over? Once a
# request is complete the server tells of a caller who leaves only when asked (pyvoy 1.3), so we ask.
LOOK_S = 0.01
ASKED_AT_ONCE = 8  # of those, in turn: asking costs a tenth of a call
# How long a caller may take over sending a request when it named no deadline.
UPLOAD_S = 10.0
# A handler knows the deadline and answers by it; this much later the front answers for it.
GRACE_S = 0.005
LONGEST_WAIT_S = 10.0  # for Python; a clock that was set in between says more
MESSAGES_AHEAD = 16  # of a stream, read before the handler asks

_HEADERS = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip")]
_GZIPPED = [*_HEADERS, (b"grpc-encoding", b"gzip")]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_START_GZIPPED = {**_START, "headers": _GZIPPED}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}


class _CallerLeft(Exception):
    """Nobody waits for this call any more."""


Lifecycle = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    pass


class GrpcApp:
    """An ASGI application that serves a method table. Use from one event loop.

    ``started`` runs before the first call, and what it raises stops the server; ``stopped`` runs after the last.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        max_message_bytes: int = 262_144,
        started: Lifecycle = _nothing,
        stopped: Lifecycle = _nothing,
    ) -> None:
        self._methods = {method.path: method for method in methods}
        self._started = started
        self._stopped = stopped
        self._max_message_bytes = max_message_bytes
        self._running: dict[_Exchange, None] = {}  # in the order they began
        self._is_looking = False

    @property
    def in_flight(self) -> int:
        """How many calls have not ended."""
        return len(self._running)

    def __call__(self, scope: Event, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve one call, or the server's start and stop."""
        if scope["type"] == "http":
            return self._serve(scope, receive, send)
        return self._live(scope, receive, send)

    async def _live(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise NotImplementedError(scope["type"])
        for phase, work in (("startup", self._started), ("shutdown", self._stopped)):
            event = await receive()
            assert event["type"] == f"lifespan.{phase}"
            try:
                await work()
            except Exception as error:
                await send({"type": f"lifespan.{phase}.failed", "message": f"{type(error).__name__}: {error}"})
                return
            await send({"type": f"lifespan.{phase}.complete"})

    async def _serve(self, scope: Event, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        self._running[exchange] = None
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)
        try:
            status = await self._handle(exchange, scope)
            if status is not None:
                await exchange.end(status)
        except _CallerLeft:
            pass
        finally:
            exchange.is_over = True
            del self._running[exchange]
            if exchange.pump is not None:
                exchange.pump.cancel()

    async def _handle(self, exchange: "_Exchange", scope: Event) -> Status | None:
        """Do the work; returns the status still to be sent, None when the call has ended."""
        path = scope["path"]
        try:
            headers = dict(scope["headers"])
            if not headers.get(b"content-type", b"").startswith(b"application/grpc") or scope["method"] != "POST":
                await exchange.refuse_http(415)
                return None
            method = self._methods.get(path)
            if method is None:
                raise UnknownMethod(path)
            encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
            reader = MessageReader(encoding, self._max_message_bytes)
            exchange.arrived(headers.get(ARRIVED))
            timeout = headers.get(b"grpc-timeout")
            deadline = None if timeout is None else exchange.began + timeout_s(timeout)
            exchange.give_up_at = exchange.began + UPLOAD_S if deadline is None else deadline + GRACE_S
            if deadline is not None and time.monotonic() >= deadline:
                return LATE  # nobody waits any more, and others do
            client = scope["client"]
            certificate = headers.get(b"x-forwarded-client-cert")
            call = Call(
                path,
                read_metadata(headers),
                deadline,
                f"{client[0]}:{client[1]}" if client else "",
                certificate_name(certificate.decode("latin-1")) if certificate else "",
            )
            if method.kind is Kind.UNARY:
                payload = await exchange.only_message(reader, self._max_message_bytes)
                exchange.request_is_complete(deadline)
                await exchange.answer(await cast(Unary, method.handler)(call, payload))
                return None
            await self._stream(exchange, method, call, reader)
            return OK
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            if exchange.has_left:
                raise _CallerLeft from None
            return LATE if exchange.is_late else INTERRUPTED
        except _CallerLeft:
            raise
        except Exception as error:
            return status_of(error, path)

    async def _stream(self, exchange: "_Exchange", method: Method, call: Call, reader: MessageReader) -> None:
        if method.kind is Kind.SERVER_STREAM:
            payload = await exchange.only_message(reader, self._max_message_bytes)
            exchange.request_is_complete(call.deadline)
            answers = cast(ServerStream, method.handler)(call, payload)
        else:
            exchange.give_up_at = None if call.deadline is None else call.deadline + GRACE_S
            answers = cast(BidiStream, method.handler)(call, exchange.messages(reader))
        async with closing(answers):
            async for answer in answers:
                await exchange.write(answer)

    def _look(self) -> None:
        """End what is late; ask after some of the calls that have been here for a while."""
        now = time.monotonic()
        asked = 0
        for exchange in list(self._running):
            if not exchange.is_late_at(now) and asked < ASKED_AT_ONCE and now - exchange.began >= LOOK_S:
                asked += exchange.ask()
                # Behind the others, so that each has its turn.
                del self._running[exchange]
                self._running[exchange] = None
        self._is_looking = bool(self._running)
        if self._is_looking:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)


class _Exchange:
    """One call on its way: the bytes in, the bytes out, and whether anybody still waits."""

    __slots__ = (
        "_has_begun_answer",
        "_is_asking",
        "_is_complete",
        "_is_gzip",
        "_receive",
        "_send",
        "_task",
        "began",
        "give_up_at",
        "has_left",
        "is_late",
        "is_over",
        "pump",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._has_begun_answer = False
        self._is_asking = False
        self._is_complete = False
        self._is_gzip = False
        self.began = time.monotonic()
        self.give_up_at: float | None = None
        self.has_left = False
        self.is_late = False
        self.is_over = False
        self.pump: asyncio.Task[None] | None = None

    def arrived(self, stamp: bytes | None) -> None:
        """Count from when the front had the call, where it says so, and not from when Python came to it."""
        if stamp is not None:
            self.began -= min(max(time.time() - float(stamp), 0.0), LONGEST_WAIT_S)

    def request_is_complete(self, deadline: float | None) -> None:
        """From now on only the handler takes time."""
        self._is_complete = True
        self.give_up_at = None if deadline is None else deadline + GRACE_S

    def is_late_at(self, now: float) -> bool:
        """Say whether the call has run out of time, and end it then."""
        if self.give_up_at is not None and now >= self.give_up_at and not (self.is_over or self.has_left):
            if not self.is_late:
                self.is_late = True
                self._cancel()
            return True
        return False

    def ask(self) -> bool:
        """Ask the server whether the caller of a complete request is still there; says whether it was asked."""
        if self._is_asking or not self._is_complete or self.has_left:
            return False
        self._is_asking = True
        asyncio.ensure_future(self._receive()).add_done_callback(self._told)
        return True

    def _told(self, done: "asyncio.Future[Event]") -> None:
        self._is_asking = False
        if not done.cancelled() and done.exception() is None and done.result()["type"] == "http.disconnect":
            self.leave()

    def leave(self) -> None:
        """Nobody waits any more: stop the work."""
        if not (self.is_over or self.has_left):
            self.has_left = True
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _chunk(self) -> tuple[bytes, bool]:
        # Shielded: the server sets this future whatever becomes of the call.
        return self._read(await asyncio.shield(asyncio.ensure_future(self._receive())))

    @staticmethod
    def _read(event: Event) -> tuple[bytes, bool]:
        if event["type"] == "http.disconnect":
            raise _CallerLeft
        return event["body"], event["more_body"]

    async def only_message(self, reader: MessageReader, max_bytes: int) -> bytes:
        """Read a request that is exactly one message; raises FramingBroken."""
        body, is_more = self._read(await self._receive())
        if not is_more and len(body) >= PREFIX.size:
            flag, length = PREFIX.unpack_from(body)
            if flag == 0 and length == len(body) - PREFIX.size <= max_bytes:
                return body[PREFIX.size :]
        self._is_gzip = body[:1] == b"\x01"
        messages = reader.feed(body)
        while is_more and len(messages) <= 1:
            body, is_more = await self._chunk()
            messages += reader.feed(body)
        if not is_more:
            reader.end()
        if len(messages) != 1:
            raise FramingBroken(f"the request has {len(messages)} messages or more, expected one")
        return messages[0]

    async def messages(self, reader: MessageReader) -> AsyncIterator[bytes]:
        """Yield the messages of a stream; reads a few ahead, so that a caller who leaves is noticed."""
        queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(MESSAGES_AHEAD)

        async def read() -> None:
            last: Exception | None = None
            is_more = True
            try:
                while is_more:
                    body, is_more = await self._chunk()
                    for message in reader.feed(body):
                        await queue.put(message)
                reader.end()
            except _CallerLeft:
                self.leave()
                return
            except Exception as error:
                last = error
            self._is_complete = True
            await queue.put(last)

        self.pump = asyncio.get_running_loop().create_task(read())
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def answer(self, payload: bytes) -> None:
        """Send the only answer of a call that went well."""
        send = self._send
        try:
            await send(_START_GZIPPED if self._is_gzip else _START)
            await send({"type": "http.response.body", "body": frame(payload, compress=self._is_gzip)})
            await send(_OK)
        except OSError as error:  # what ASGI servers raise once the caller has left
            raise _CallerLeft from error

    async def write(self, payload: bytes) -> None:
        """Send one message of several; waits while the caller does not read."""
        if not self._has_begun_answer:
            self._has_begun_answer = True
            await self._tell(_START_GZIPPED if self._is_gzip else _START)
        body = frame(payload, compress=self._is_gzip)
        await self._tell({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, status: Status) -> None:
        """End the call; without an answer before it, in headers alone (Trailers-Only)."""
        trailers = [(b"grpc-status", b"%d" % status.code.value[0])]
        if status.message:
            trailers.append((b"grpc-message", percent_encode(status.message)))
        trailers += [(name.encode(), value.encode()) for name, value in status.trailing]
        if not self._has_begun_answer:
            await self._tell({"type": "http.response.start", "status": 200, "headers": _HEADERS + trailers})
            await self._tell({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self._tell({"type": "http.response.body", "body": b"", "more_body": False})
        await self._tell({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})

    async def refuse_http(self, status: int) -> None:
        """Answer a request that is not gRPC at all."""
        await self._tell({"type": "http.response.start", "status": status, "headers": []})
        await self._tell({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, event: Event) -> None:
        try:
            await self._send(event)
        except OSError as error:
            raise _CallerLeft from error
