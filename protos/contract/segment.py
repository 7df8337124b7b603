"""Capture segments: checksummed records in files one side writes and the other reads.

A segment is ``interlock.segment/1\\n`` and then records: 4-byte little-endian length,
4-byte CRC-32 of the body, body (one CaptureRecord). A reader stops before the first
incomplete or wrong record; the file's name orders it: ``<milliseconds>-<run>-<n>.seg``.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from protos import capture_pb2

MAGIC = b"interlock.segment/1\n"
MAX_RECORD_BYTES = 1 << 22
_HEAD = struct.Struct("<II")


class SegmentInvalid(Exception):
    """A file is not a segment, or a record in it is damaged."""


class SegmentWriter:
    """Append records to one segment file. Not thread-safe; one owner writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb", buffering=0)
        self._file.write(MAGIC)
        self.size = len(MAGIC)

    def append(self, records: list[capture_pb2.CaptureRecord]) -> None:
        """Write records in one call; raises OSError when the disk refuses."""
        parts: list[bytes] = []
        for record in records:
            body = record.SerializeToString()
            parts += (_HEAD.pack(len(body), zlib.crc32(body)), body)
        data = b"".join(parts)
        written = self._file.write(data)
        if written != len(data):
            # A short write leaves half a record; cut it off so that the next append is readable.
            os.ftruncate(self._file.fileno(), self.size)
            self._file.seek(self.size)
            raise OSError(28, f"wrote {written} of {len(data)} bytes to {self.path}")
        self.size += len(data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def read_segment(path: Path, offset: int = 0) -> Iterator[tuple[capture_pb2.CaptureRecord, int]]:
    """Yield each whole record after ``offset`` with the offset just past it.

    A record still being written ends the iteration quietly.

    Raises:
        SegmentInvalid: Wrong magic, or a complete record that does not match its checksum.
    """
    with path.open("rb") as file:
        if offset == 0:
            magic = file.read(len(MAGIC))
            if len(magic) < len(MAGIC):
                return
            if magic != MAGIC:
                raise SegmentInvalid(f"{path.name}: starts with {magic!r}, expected {MAGIC!r}")
            offset = len(MAGIC)
        file.seek(offset)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if length > MAX_RECORD_BYTES:
                raise SegmentInvalid(f"{path.name}: record of {length} bytes at {offset}")
            body = file.read(length)
            if len(body) < length:
                return
            if zlib.crc32(body) != checksum:
                raise SegmentInvalid(f"{path.name}: checksum is wrong at {offset}")
            offset += _HEAD.size + length
            try:
                yield capture_pb2.CaptureRecord.FromString(body), offset
            except DecodeError as error:
                raise SegmentInvalid(f"{path.name}: no record at {offset}") from error
