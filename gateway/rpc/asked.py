"""What the headers of a call say, read once for all calls that say the same but for how much time they have."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from gateway.errors import FramingBroken, UnknownMethod
from gateway.rpc.header_block import MOST_KEPT_BYTES, BlockBroken, Field, fields_and_ends, inflate
from gateway.rpc.header_fields import is_malformed, joined
from gateway.rpc.stamp import unstamped
from gateway.rpc.wire import MessageReader, Method, certificate_name, read_metadata, timeout_s

MOST_KEPT = 4096  # header blocks whose meaning is kept
_NAME = b"grpc-timeout"
_COMPRESSED = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(_NAME)
# The field's name as a block has it, Huffman coded as clients do, or plain as ours is rewritten.
_NAMES = (bytes((0x80 | len(_COMPRESSED),)) + _COMPRESSED, bytes((len(_NAME),)) + _NAME)


class Asked(NamedTuple):
    """What the headers of a request say, which is the same for very many requests."""

    path: str
    method: Method | None
    error: Exception | None  # why there is nothing to be done
    http_status: int  # 200 of a call, else how HTTP refuses it
    encoding: str
    metadata: dict[str, str | bytes]
    identity: str


class Headings:
    """Reads header blocks and keeps what they said. Go and Java write a call's time to the nanosecond, so that no two
    blocks are the same: a block is known by the rest of it.

    Args:
        is_envoy: The blocks are our own Envoy's, who alone is believed when a call came and whose certificate it bears.
    """

    def __init__(self, methods: Mapping[str, Method], *, is_envoy: bool) -> None:
        self._methods = methods
        self._is_envoy = is_envoy
        self._whole: dict[bytes, tuple[Asked, float | None]] = {}
        self._but_for_time: dict[bytes, Asked] = {}

    def read(self, block: bytes) -> tuple[Asked, float | None]:
        """Return what a block says, and the seconds it gives; raises BlockBroken."""
        whole = unstamped(block) if self._is_envoy else block
        found = self._whole.get(whole)
        if found is not None:
            return found
        begin, end = _time_in(whole)
        rest = whole[:begin] + whole[end:]
        known = self._but_for_time.get(rest)
        if known is not None:
            try:
                return known, _seconds(block[begin:end], block[begin - 1] >= 0x80)
            except (BlockBroken, FramingBroken):
                pass  # it is no time: said below
        fields = fields_and_ends(block)
        found = self._meaning([field for field, _ in fields])
        _keep(self._whole, whole, found)
        # What looks like the time is that and nothing else, so it is in every block with the same rest.
        if found[0].error is None and [at for (name, _), at in fields if name == _NAME] == [end]:
            _keep(self._but_for_time, rest, found[0])
        return found

    def _meaning(self, fields: Sequence[Field]) -> tuple[Asked, float | None]:
        headers = joined(fields)
        path = headers.get(b":path", b"").decode("latin-1")
        is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
        is_grpc = is_grpc and headers.get(b":method") == b"POST"
        http_status = 400 if is_malformed(fields) else 200 if is_grpc else 415
        method = self._methods.get(path)
        error: Exception | None = None
        given_s: float | None = None
        metadata: dict[str, str | bytes] = {}
        encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        try:
            if method is None:
                raise UnknownMethod(path)
            timeout = headers.get(_NAME)
            given_s = None if timeout is None else timeout_s(timeout)
            metadata = read_metadata(headers)
            MessageReader(encoding, 0)  # raises where the encoding is unknown
        except Exception as problem:
            error = problem.with_traceback(None)  # which would keep these headers, and itself
        certificate = headers.get(b"x-forwarded-client-cert") if self._is_envoy else None
        identity = certificate_name(certificate.decode("latin-1")) if certificate else ""
        return Asked(path, method, error, http_status, encoding, metadata, identity), given_s


def _time_in(block: bytes) -> tuple[int, int]:
    """Return where the value of ``grpc-timeout`` seems to begin and to end; 0 and 0 where there seems to be none."""
    for name in _NAMES:
        at = block.find(name)
        if at >= 0:
            begin = at + len(name) + 1
            length = block[begin - 1] & 0x7F if begin <= len(block) else 0x7F
            return (begin, begin + length) if length < 0x7F and begin + length <= len(block) else (0, 0)
    return 0, 0


@lru_cache(maxsize=1024)
def _seconds(raw: bytes, is_compressed: bool) -> float:
    return timeout_s(inflate(raw) if is_compressed else raw)


def _keep(kept: dict[bytes, Any], key: bytes, value: Any) -> None:
    if len(key) > MOST_KEPT_BYTES:
        return
    if len(kept) >= MOST_KEPT:
        kept.clear()
    kept[key] = value
