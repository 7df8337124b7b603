"""Frames on an engine link: a 4-byte little-endian length, then one Frame message."""

import struct
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError

from protos import engine_pb2

MAX_FRAME_BYTES = 1 << 23
PROTOCOL = 2
_LENGTH = struct.Struct("<I")
_read = engine_pb2.Frame.FromString

Row = TypeVar("Row")


class FrameMalformed(Exception):
    """The peer sent bytes that are not frames; the connection cannot be continued."""


def encode(frame: engine_pb2.Frame) -> bytes:
    """Write one frame."""
    body: bytes = frame.SerializeToString()
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Cut a byte stream into frames, however it was split on the way."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[engine_pb2.Frame]:
        """Take bytes, return the frames they complete.

        Raises:
            FrameMalformed: A length over MAX_FRAME_BYTES, or bytes that are no Frame.
        """
        return self.feed_rows(data, _no_row)

    def feed_rows(self, data: bytes, read: Callable[[bytes, int, int], Row | None]) -> list[Row | engine_pb2.Frame]:
        """Do the same; a frame that ``read`` has a way of its own for (``contract/rows.py``) is what it returns."""
        if self._pending:
            data = self._pending + data
        frames: list[Row | engine_pb2.Frame] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > MAX_FRAME_BYTES:
                raise FrameMalformed(f"frame of {length} bytes, expected at most {MAX_FRAME_BYTES}")
            after = at + 4 + length
            if after > end:
                break
            row = read(data, at, after)
            if row is not None:
                frames.append(row)
            else:
                try:
                    frames.append(_read(data[at + 4 : after]))
                except DecodeError as error:
                    raise FrameMalformed(f"not a Frame message: {error}") from error
            at = after
        self._pending = data[at:]
        return frames


def _no_row(data: bytes, at: int, after: int) -> engine_pb2.Frame | None:
    return None
