"""The portable front: the method table on grpc.aio."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, cast

import grpc
import grpc.aio

from gateway.errors import DeadlinePassed, FramingBroken
from gateway.rpc.status import INTERRUPTED, Status, status_of
from gateway.rpc.tls import Tls, TlsFiles, grpcio_credentials
from gateway.rpc.wire import BidiStream, Call, Kind, Method, ServerStream, Unary, closing

# Aborted handlers still run their ``finally`` after the library's stop() returns (grpc issue 37239).
SETTLE_S = 2.0
# How long a caller may take over sending a request when it named no deadline.
UPLOAD_S = 10.0

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_concurrent_streams", 128),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Two gateways on one port by mistake would each get a random share of the calls.
    ("grpc.so_reuseport", 0),
)


class GrpcioFront:
    """Serve a method table on one address. Use from one event loop; ``start`` once, ``drain`` once."""

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        address: str,
        max_message_bytes: int = 262_144,
        max_connections: int = 2_000,
        tls: Tls | None = None,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self._methods = tuple(methods)
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._max_connections = max_connections
        self._tls = tls
        self._upload_s = upload_s
        self._server: grpc.aio.Server | None = None
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> int:
        """How many calls have a handler at work."""
        return len(self._running)

    def refused(self) -> int:
        """Return 0: here calls are held back by nothing but their connections' streams."""
        return 0

    async def start(self) -> int:
        """Listen and serve; returns the port. Raises RuntimeError when the address cannot be bound, TlsInvalid."""
        options = [
            *SERVER_OPTIONS,
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_allowed_incoming_connections", self._max_connections),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((_Table({m.path: self._handler(m) for m in self._methods}),))
        if self._tls is None:
            port = server.add_insecure_port(self._address)
        else:
            port = server.add_secure_port(self._address, grpcio_credentials(TlsFiles(self._tls)))
        await server.start()
        self._server = server
        return int(port)

    async def drain(self, grace_s: float) -> None:
        """Refuse new calls, give those in flight ``grace_s`` to end, then cancel them and wait until they let go."""
        if self._server is None:
            return
        await self._server.stop(grace_s)
        if self._running:
            await asyncio.wait(self._running, timeout=SETTLE_S)

    def _handler(self, method: Method) -> Any:
        # No (de)serialisers: the library answers bad bytes with UNKNOWN, a class name and a traceback a message.
        # Every request is read as a stream: of a single message the library would wait for ever and tell nobody.
        if method.kind is Kind.UNARY:
            return grpc.stream_unary_rpc_method_handler(self._unary(method))
        if method.kind is Kind.SERVER_STREAM:
            return grpc.stream_stream_rpc_method_handler(self._answers(method))
        return grpc.stream_stream_rpc_method_handler(self._stream(method))

    def _unary(self, method: Method) -> Any:
        handler = cast(Unary, method.handler)

        async def answer(context: Any) -> bytes:
            call = _call(method.path, context)
            return await handler(call, await self._only_message(call, context))

        async def serve(requests: Any, context: Any) -> bytes:
            return cast(bytes, await self._finish(method.path, context, answer(context)))

        return serve

    def _answers(self, method: Method) -> Any:
        handler = cast(ServerStream, method.handler)

        async def forward(context: Any) -> None:
            call = _call(method.path, context)
            async with closing(handler(call, await self._only_message(call, context))) as answers:
                async for answer in answers:
                    await context.write(answer)

        async def serve(requests: Any, context: Any) -> None:
            await self._finish(method.path, context, forward(context))

        return serve

    async def _only_message(self, call: Call, context: Any) -> bytes:
        """Read a request of one message, for ``upload_s`` at most where no deadline ends the call.

        To see that no other follows would cost another turn with the library.

        Raises:
            FramingBroken: The request ends without a message.
            DeadlinePassed: The caller is too slow.
        """
        try:
            async with asyncio.timeout(self._upload_s if call.deadline is None else None):
                payload = await context.read()
        except TimeoutError:
            raise DeadlinePassed(int(self._upload_s * 1e6)) from None
        if payload is grpc.aio.EOF:
            raise FramingBroken("the request ends without a message")
        return cast(bytes, payload)

    def _stream(self, method: Method) -> Any:
        handler = cast(BidiStream, method.handler)

        async def forward(request: Any, context: Any) -> None:
            async with closing(handler(_call(method.path, context), request)) as answers:
                async for answer in answers:
                    await context.write(answer)

        async def serve(request: Any, context: Any) -> None:
            await self._finish(method.path, context, forward(request, context))

        return serve

    async def _finish(self, path: str, context: Any, work: Awaitable[Any]) -> Any:
        """Await the work; every way it can end gives the call a status."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        status: Status
        try:
            return await work
        except asyncio.CancelledError:
            if task.cancelling():  # the caller left or the server stops: the call already has its status
                raise
            # Something inside was cancelled. The library would send no status at all for it.
            status = INTERRUPTED
        except Exception as error:
            status = status_of(error, path)
        finally:
            self._running.discard(task)
        return await context.abort(status.code, status.message, status.trailing)  # raises


def _call(path: str, context: Any) -> Call:
    left = context.time_remaining()
    return Call(
        path=path,
        metadata=dict(context.invocation_metadata() or ()),
        deadline=None if left is None else time.monotonic() + left,
        peer=context.peer(),
        identity=_identity(context.auth_context()),
    )


def _identity(names: Mapping[str, Iterable[bytes]]) -> str:
    """Return who the caller's verified certificate names, in the order of ``Call.identity``."""
    if names.get("transport_security_type") != [b"ssl"]:
        return ""
    alternatives = [name.decode() for name in names.get("x509_subject_alternative_name", ())]
    uris = [name for name in alternatives if "://" in name]
    for found in (uris, alternatives, [name.decode() for name in names.get("x509_subject", ())]):
        if found:
            return found[0]
    return ""


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a path; the library answers UNIMPLEMENTED for None."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)
