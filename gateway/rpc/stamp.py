"""The stamp that Envoy puts on a request: seconds in the minute when it had the headers.

As Envoy writes it, it is always the last field of a block: a new name and five digits, both Huffman coded.
"""

import time
from functools import lru_cache

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

from gateway.rpc.wire import ARRIVED

LONGEST_WAIT_S = 10.0  # for this process; a clock that was set in between says more
MINUTE_S = 60.0  # the stamp counts the seconds in it
_STAMP_BYTES = 4
_STAMP_NAME = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(ARRIVED)
_STAMP_HEAD = bytes((0x80 | len(_STAMP_NAME),)) + _STAMP_NAME + bytes((0x80 | _STAMP_BYTES,))
_STAMP_WHOLE = len(_STAMP_HEAD) + _STAMP_BYTES


def unstamped(block: bytes) -> bytes:
    """Return what is the same in every block that says the same: all of it but the stamp's value."""
    return block[:-_STAMP_BYTES] if block[-_STAMP_WHOLE:-_STAMP_BYTES] == _STAMP_HEAD else block


@lru_cache(maxsize=1024)
def _moment(raw: bytes) -> float:
    """Read a stamp: seconds in the minute. Many calls of one moment bear the same."""
    return int(decode_huffman(raw)) / 1000


def waited_s(block: bytes) -> float:
    """Return how long a request has waited for this process since the front had its headers, in seconds."""
    if block[-_STAMP_WHOLE:-_STAMP_BYTES] != _STAMP_HEAD:
        return 0.0
    waited = (time.time() - _moment(block[-_STAMP_BYTES:])) % MINUTE_S
    return min(waited, LONGEST_WAIT_S) if waited < MINUTE_S / 2 else 0.0
