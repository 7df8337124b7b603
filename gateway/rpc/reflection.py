"""Server reflection, so that grpcurl and ghz need no .proto files."""

from collections.abc import AsyncIterator, Iterable

from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from gateway.rpc.wire import Call, Kind, Method, closing, parse

SERVICE = "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService:
    """The library's answers, on our bytes."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = aio.ReflectionServicer([*services, SERVICE])

    def methods(self) -> tuple[Method, ...]:
        """Return this service's row of the method table."""
        return (Method(f"/{SERVICE}/ServerReflectionInfo", Kind.BIDI_STREAM, self.info),)

    async def info(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Answer each question about our services and messages."""

        async def questions() -> AsyncIterator[ServerReflectionRequest]:
            async for payload in payloads:
                yield parse(ServerReflectionRequest, payload)

        async with closing(self._servicer.ServerReflectionInfo(questions(), None)) as answers:
            async for answer in answers:
                yield answer.SerializeToString()
