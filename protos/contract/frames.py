"""Frames on an engine link: a 4-byte little-endian length, then one Frame message."""

import struct

from google.protobuf.message import DecodeError

from protos import engine_pb2

MAX_FRAME_BYTES = 1 << 23
PROTOCOL = 1
_LENGTH = struct.Struct("<I")


class FrameMalformed(Exception):
    """The peer sent bytes that are not frames; the connection cannot be continued."""


def encode(frame: engine_pb2.Frame) -> bytes:
    """Write one frame."""
    body: bytes = frame.SerializeToString()
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Cut a byte stream into frames, however it was split on the way."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[engine_pb2.Frame]:
        """Take bytes, return the frames they complete.

        Raises:
            FrameMalformed: A length over MAX_FRAME_BYTES, or bytes that are no Frame.
        """
        pending = self._pending
        pending += data
        frames = []
        at = 0
        while len(pending) - at >= 4:
            (length,) = _LENGTH.unpack_from(pending, at)
            if length > MAX_FRAME_BYTES:
                raise FrameMalformed(f"frame of {length} bytes, expected at most {MAX_FRAME_BYTES}")
            if len(pending) - at - 4 < length:
                break
            try:
                frames.append(engine_pb2.Frame.FromString(bytes(pending[at + 4 : at + 4 + length])))
            except DecodeError as error:
                raise FrameMalformed(f"not a Frame message: {error}") from error
            at += 4 + length
        if at:
            del pending[:at]
        return frames
