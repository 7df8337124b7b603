"""What every front and every service agree on: calls, handlers and bytes, without any one server library."""

import base64
import binascii
import re
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.errors import CompressionUnknown, FramingBroken, Malformed, MessageTooLarge

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Call(NamedTuple):
    """One call as a handler sees it.

    Times are seconds of ``time.monotonic``: ``deadline`` is None without one, and ``arrived``, when the front had the
    call, where that is now. ``identity`` is what the caller's verified TLS certificate names (its URI, else its DNS
    name, else its subject), "" without one.
    """

    path: str
    metadata: Mapping[str, str | bytes] = MappingProxyType({})
    deadline: float | None = None
    peer: str = ""
    identity: str = ""
    arrived: float | None = None


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


# The rest is gRPC over HTTP/2 as bytes (grpc/doc/PROTOCOL-HTTP2.md), for the front whose server speaks only HTTP.

PREFIX = struct.Struct(">BI")  # compressed flag, length
GZIP_WINDOW = 16 + zlib.MAX_WBITS
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNPRINTABLE = re.compile(rb"[^ -$&-~]")  # everything but printable ASCII, and the percent sign itself


def frame(payload: bytes, *, compress: bool = False) -> bytes:
    """Write one length-prefixed message."""
    if compress:
        packer = zlib.compressobj(1, wbits=GZIP_WINDOW)
        payload = packer.compress(payload) + packer.flush()
    return PREFIX.pack(compress, len(payload)) + payload


class MessageReader:
    """Cut a request body into messages, however it was split on the way; each is inflated when it is taken."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        if encoding not in ("identity", "gzip"):
            raise CompressionUnknown(encoding)
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._pending = bytearray()

    @property
    def held(self) -> int:
        """How many bytes were added and not taken."""
        return len(self._pending)

    def add(self, data: bytes) -> None:
        """Keep bytes until they are taken."""
        self._pending += data

    def take(self) -> bytes | None:
        """Return the next message, None while it is not whole.

        Raises:
            MessageTooLarge: A prefix announces more than may come, before any of it is waited for.
            FramingBroken: A flag that is neither 0 nor 1, or compressed bytes that are not what was announced.
        """
        pending = self._pending
        if len(pending) < PREFIX.size:
            return None
        flag, length = PREFIX.unpack_from(pending)
        if flag > 1 or (flag and self._encoding == "identity"):
            raise FramingBroken(f"compressed flag is {flag} with grpc-encoding {self._encoding}")
        if length > self._max_bytes:
            raise MessageTooLarge(length, self._max_bytes)
        end = PREFIX.size + length
        if len(pending) < end:
            return None
        message = bytes(pending[PREFIX.size : end])
        del pending[:end]
        return self._unpack(message) if flag else message

    def end(self) -> None:
        """Say that the body is over; raises FramingBroken inside a message."""
        if self._pending:
            raise FramingBroken(f"the body ends {len(self._pending)} bytes into a message")

    def _unpack(self, packed: bytes) -> bytes:
        unpacker = zlib.decompressobj(GZIP_WINDOW)
        try:
            message = unpacker.decompress(packed, self._max_bytes + 1)
        except zlib.error as error:
            raise FramingBroken("a message is not the gzip it is announced as") from error
        if len(message) > self._max_bytes:
            raise MessageTooLarge(len(message), self._max_bytes)
        if not unpacker.eof or unpacker.unused_data:
            raise FramingBroken("a message is not one whole gzip stream")
        return message


def timeout_s(value: bytes) -> float:
    """Read ``grpc-timeout``; raises FramingBroken."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise FramingBroken(f"grpc-timeout is {value[:20]!r}, expected up to eight digits and one of HMSmun")
    return int(found[1]) * _UNIT_S[found[2]]


def percent_encode(message: str) -> bytes:
    """Write a status message as ``grpc-message`` carries it."""
    return _UNPRINTABLE.sub(lambda found: b"%%%02X" % found[0][0], message.encode())


# When the front had read the headers of a call, in milliseconds of the minute: in C++, before it waits for us.
ARRIVED = b"x-interlock-arrived"

# Of the transport, not of the caller. Most calls have no other headers.
_TRANSPORT = frozenset(
    (
        b"te", b"content-type", b"content-length", b"host", b"user-agent", b"accept-encoding", b"grpc-timeout",
        b"grpc-encoding", b"grpc-accept-encoding", b"x-forwarded-proto", b"x-forwarded-client-cert",
        ARRIVED,
    )
)  # fmt: skip


def read_metadata(headers: Mapping[bytes, bytes]) -> dict[str, str | bytes]:
    """Return the caller's own metadata. Raises FramingBroken."""
    found: dict[str, str | bytes] = {}
    for raw, value in headers.items():
        if raw in _TRANSPORT:
            continue
        name = raw.decode("latin-1")
        if name.startswith(("grpc-", "x-forwarded-", "x-envoy-")):
            continue
        if not name.endswith("-bin"):
            found[name] = value.decode("latin-1")
            continue
        try:
            found[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error as error:
            raise FramingBroken(f"metadata {name[:40]!r} is not base64") from error
    return found


def certificate_name(forwarded: str) -> str:
    """Return who a verified client certificate names, from Envoy's ``x-forwarded-client-cert`` of one hop."""
    parts = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^;,]*)', forwarded))
    for key in ("URI", "DNS", "Subject"):
        value: str = parts.get(key, "").strip('"')
        if value:
            return value
    return ""
