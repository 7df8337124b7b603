"""Capture segments: checksummed records in files one side writes and the other reads.

A segment is ``interlock.segment/1\\n`` and then records: 4-byte little-endian length,
4-byte CRC-32 of the body, body (one CaptureRecord). A reader stops before the first
incomplete or wrong record; the file's name orders it: ``<milliseconds>-<run>-<n>.seg``.

A sealed one is ``interlock.sealed-segment/1\n``, the wrapped data key (``protos/contract/seal.py``) and the
same records with their bodies encrypted.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from google.protobuf.message import DecodeError

from protos import capture_pb2
from protos.contract.seal import WRAPPED_BYTES, Opener, RecordCipher, SealBroken, begin

MAGIC = b"interlock.segment/1\n"
SEALED = b"interlock.sealed-segment/1\n"
MAX_RECORD_BYTES = 1 << 22
_HEAD = struct.Struct("<II")


class SegmentInvalid(Exception):
    """A file is not a segment, or a record in it is damaged."""


class SealedSegment(Exception):
    """A segment is sealed and there is no key to open it with."""


class SegmentWriter:
    """Append records to one segment file. Not thread-safe; one owner writes."""

    def __init__(self, path: Path, seal: X25519PublicKey | None = None) -> None:
        self.path = path
        self._cipher: RecordCipher | None = None
        head = MAGIC
        if seal is not None:
            wrapped, self._cipher = begin(seal)
            head = SEALED + wrapped
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb", buffering=0)
        self._file.write(head)
        self.size = len(head)

    def append(self, records: list[capture_pb2.CaptureRecord]) -> None:
        """Write records in one call; raises OSError when the disk refuses."""
        parts: list[bytes] = []
        place = self.size
        for record in records:
            body = record.SerializeToString()
            if self._cipher is not None:
                body = self._cipher.seal(place, body)
            place += _HEAD.size + len(body)
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


def read_segment(
    path: Path, offset: int = 0, opener: Opener | None = None
) -> Iterator[tuple[capture_pb2.CaptureRecord, int]]:
    """Yield each whole record after ``offset`` with the offset just past it.

    A record still being written ends the iteration quietly.

    Raises:
        SegmentInvalid: Wrong magic, or a complete record that does not match its checksum.
        SealedSegment: The segment is sealed and ``opener`` is None or for another key.
    """
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if len(magic) < len(MAGIC):
            return
        cipher, start = None, len(MAGIC)
        if SEALED.startswith(magic):
            start = len(SEALED) + WRAPPED_BYTES
            head = magic + file.read(start - len(magic))
            if len(head) < start:
                return
            cipher = _unwrapped(path, head, opener)
        elif magic != MAGIC:
            raise SegmentInvalid(f"{path.name}: starts with {magic!r}, expected {MAGIC!r}")
        offset = max(offset, start)
        file.seek(offset)
        while len(frame := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(frame)
            if length > MAX_RECORD_BYTES:
                raise SegmentInvalid(f"{path.name}: record of {length} bytes at {offset}")
            body = file.read(length)
            if len(body) < length:
                return
            if zlib.crc32(body) != checksum:
                raise SegmentInvalid(f"{path.name}: checksum is wrong at {offset}")
            try:
                plain = body if cipher is None else cipher.open(offset, body)
                record = capture_pb2.CaptureRecord.FromString(plain)
            except (DecodeError, SealBroken) as error:
                raise SegmentInvalid(f"{path.name}: no record at {offset}: {error}") from error
            offset += _HEAD.size + length
            yield record, offset


def _unwrapped(path: Path, head: bytes, opener: Opener | None) -> RecordCipher:
    if not head.startswith(SEALED):
        raise SegmentInvalid(f"{path.name}: starts with {head[:40]!r}, expected {SEALED!r}")
    if opener is None:
        raise SealedSegment(f"{path.name} is sealed")
    try:
        return opener(head[len(SEALED) :])
    except SealBroken as error:
        raise SealedSegment(f"{path.name}: {error}") from error
