"""HTTP/2 header blocks of a peer that was told to keep no header table (RFC 7541).

Without a table a block means the same whenever it comes, so what was read of one may be kept and
used again. What we write leaves no trace in the peer's table either.
"""

from collections.abc import Iterable
from functools import lru_cache

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_STATIC: tuple[Field, ...] = ((b"", b""), *((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE))
_MOST_BYTES_OF_A_NUMBER = 4
MOST_KEPT_BYTES = 1 << 12  # of a block whose meaning is kept: thousands are, and callers choose how long theirs are
_MOST_KEPT_TEXT = 1 << 9
MOST_FIELDS = 128  # of a request: one may be a single byte of a block; Envoy takes 100 of callers and adds to them


class BlockBroken(Exception):
    """The bytes are no header block, or refer to a table that the peer was told not to keep."""


class TooManyFields(BlockBroken):
    """The block has more than MOST_FIELDS."""


def write_block(fields: Iterable[Field]) -> bytes:
    """Write fields literally, never indexed and never compressed (RFC 7541, 6.2.2)."""
    block = bytearray(b"\x20")  # no table is kept here either: to be said once, and allowed in every block
    for pair in fields:
        block.append(0)
        for text in pair:
            _append_number(block, len(text))
            block += text
    return bytes(block)


def _append_number(block: bytearray, number: int) -> None:
    if number < 127:
        block.append(number)
        return
    block.append(127)
    number -= 127
    while number >= 128:
        block.append(number % 128 + 128)
        number //= 128
    block.append(number)


def read_block(block: bytes) -> list[Field]:
    """Return the fields in order; raises BlockBroken."""
    return [field for field, _ in fields_and_ends(block)]


def fields_and_ends(block: bytes) -> list[tuple[Field, int]]:
    """Return the fields in order, each with the place where it ends; raises BlockBroken."""
    found: list[tuple[Field, int]] = []
    at, end = 0, len(block)
    try:
        while at < end and len(found) <= MOST_FIELDS:
            first = block[at]
            if first >= 0x80:
                index, at = _number(block, at, 0x7F)
                if not index:
                    raise BlockBroken("a field of index 0")
                found.append((_STATIC[index], at))
                continue
            if 0x20 <= first < 0x40:
                size, at = _number(block, at, 0x1F)
                if size:
                    raise BlockBroken(f"the peer wants a table of {size} bytes, expected none")
                continue
            index, at = _number(block, at, 0x3F if first >= 0x40 else 0x0F)
            if index:
                name = _STATIC[index][0]
            else:
                name, at = _text(block, at)
            value, at = _text(block, at)
            found.append(((name, value), at))
    except IndexError:
        raise BlockBroken("a block ends inside a field, or refers to a table") from None
    if len(found) > MOST_FIELDS:
        raise TooManyFields(f"more than {MOST_FIELDS} fields")
    return found


def leaves_no_trace(block: bytes) -> bool:
    """Say whether a block neither reads nor writes a table, so that it means the same with any."""
    at, end = 0, len(block)
    try:
        while at < end:
            first = block[at]
            if first >= 0x80:
                index, at = _number(block, at, 0x7F)
                if not 0 < index < len(_STATIC):
                    return False
                continue
            if first >= 0x20:
                return False
            index, at = _number(block, at, 0x0F)
            if index >= len(_STATIC):
                return False
            for _ in range(1 if index else 2):
                length, at = _number(block, at, 0x7F)
                at += length
    except (IndexError, BlockBroken):
        return False
    return at == end


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Read an integer whose first byte shares its place with flags: (number, where it ended)."""
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in range(0, 7 * _MOST_BYTES_OF_A_NUMBER, 7):
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise BlockBroken("a number of too many bytes")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    is_huffman = block[at] >= 0x80
    length, at = _number(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise BlockBroken("a string goes past the end of its block")
    raw = block[at:end]
    if not is_huffman:
        return raw, end
    return (_inflate(raw) if length <= _MOST_KEPT_TEXT else inflate(raw)), end


def inflate(raw: bytes) -> bytes:
    """Undo the Huffman coding; raises BlockBroken."""
    try:
        return bytes(decode_huffman(raw))
    except HPACKError as error:
        raise BlockBroken("a string is not Huffman coded as it says") from error


_inflate = lru_cache(maxsize=4096)(inflate)  # most names and values come again
