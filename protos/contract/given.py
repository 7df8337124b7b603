"""A caller's input as both sides pass it on: read once, with the bytes it came as."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from protos import decide_pb2

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_TEXT = 0x0A  # the tag of Input's text


class Given(NamedTuple):
    """An ``interlock.v1.Input``: a text, or named fields; ``raw`` is the message itself."""

    text: str
    fields: Mapping[str, Any]
    raw: bytes

    @classmethod
    def of(cls, message: decide_pb2.Input) -> Self:
        """Take an input out of a message."""
        fields = message.fields
        return cls(message.text, fields if fields else NO_FIELDS, message.SerializeToString())

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Make an input of one text."""
        return cls(text, NO_FIELDS, text_field(text.encode()))

    def message(self) -> decide_pb2.Input:
        """Return the message."""
        return decide_pb2.Input.FromString(self.raw)


def text_field(encoded: bytes) -> bytes:
    """Write an Input that is one text, given as UTF-8."""
    length = len(encoded)
    if length < 0x80:
        return bytes((_TEXT, length)) + encoded
    head = bytearray((_TEXT,))
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + encoded


def only_text(raw: bytes) -> Given | None:
    """Read an Input that is one text and nothing else; None where it is another."""
    end = len(raw)
    if end < 2 or raw[0] != _TEXT:
        return None
    length, start = raw[1], 2
    if length >= 0x80:
        length &= 0x7F
        for shift in (7, 14, 21):
            if start >= end:
                return None
            byte = raw[start]
            start += 1
            length += (byte & 0x7F) << shift
            if byte < 0x80:
                break
    if start + length != end:
        return None
    try:
        return Given(raw[start:].decode(), NO_FIELDS, raw)
    except UnicodeDecodeError:
        return None
