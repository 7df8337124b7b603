"""Which header fields a request may have (RFC 9113, 8.2 and 8.3), and what several of one name mean together."""

import re
from collections.abc import Sequence

from gateway.rpc.header_block import Field

_PSEUDO = frozenset((b":method", b":path", b":scheme", b":authority"))
_OF_CONNECTIONS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_NAME = re.compile(rb"[!-9;-@\[-~]+")  # no colon, no capitals, nothing that is not printed
_NEVER = re.compile(rb"[\0\r\n]")  # in a value


def is_malformed(fields: Sequence[Field]) -> bool:
    """Say whether HTTP/2 forbids a request these fields: whoever reads them after us could read something else."""
    seen: set[bytes] = set()
    is_regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if is_regular or name in seen or name not in _PSEUDO:
                return True
            seen.add(name)
        else:
            is_regular = True
            if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers") or not _NAME.fullmatch(name):
                return True
        if _NEVER.search(value):
            return True
    return False


def joined(fields: Sequence[Field]) -> dict[bytes, bytes]:
    """Return values by name. Several of one name are one with commas, as gRPC has it: none hides another."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        is_list = name in found and not name.endswith(b"-bin")
        found[name] = found[name] + b"," + value if is_list else value
    return found
