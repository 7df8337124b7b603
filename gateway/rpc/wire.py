"""What every front and every service agree on: calls, handlers and bytes, without any one server library."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.errors import Malformed

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call as a handler sees it. ``deadline`` is in seconds of ``time.monotonic``, None without one."""

    path: str
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    deadline: float | None = None
    peer: str = ""


Unary = Callable[[Call, bytes], Awaitable[bytes]]
ServerStream = Callable[[Call, bytes], AsyncIterator[bytes]]
BidiStream = Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]


class Kind(Enum):
    """Which of the three handler shapes a method has."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    BIDI_STREAM = "bidirectional stream"


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the method table. Handlers raise GatewayError; the front turns errors into statuses."""

    path: str
    kind: Kind
    handler: Unary | ServerStream | BidiStream

    @property
    def service(self) -> str:
        """Full name of the service in the path."""
        return self.path.split("/")[1]


def parse(kind: type[M], payload: bytes) -> M:
    """Read a message; raises Malformed, so that hostile bytes never surface as a library's traceback."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise Malformed(kind.DESCRIPTOR.full_name) from error


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an iterator on every exit, so that what it holds is freed now and not when collected."""
    try:
        yield items
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()
