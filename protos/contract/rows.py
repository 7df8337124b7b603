"""The two frames of hot paths, a job of one text and its answer, written and read in one step each.

They are ordinary protobuf: what is written here any protobuf library reads, and a peer that writes the same
fields in another order is read in the general way. Fields of fixed width stand first, in one order, so a
``struct`` does for all of them; lengths are written in two bytes each, as protobuf allows.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from protos import engine_pb2
from protos.contract.given import Given, only_text

_MOST = 1 << 14  # what a length of two bytes can say
_JOB, _RESULT = 0x2A, 0x32  # the tags of Frame's fields

# length, job: length, id, remaining_us, priority, input: length
_JOB_HEAD = struct.Struct("<IBHBQBIBBBH")
_JOB_TAGS = (_JOB, 0x09, 0x1D, 0x20, 0x2A)
# length, result: length, id, label, decision, score, truncated, tokens, queue_us, engine_us, batch_size, probabilities:
_RESULT_HEAD = struct.Struct("<IBHBQBIBIBfBBBIBIBIBIBH")
_RESULT_TAGS = (_RESULT, 0x09, 0x2D, 0x35, 0x3D, 0x40, 0x4D, 0x55, 0x5D, 0x65, 0x22)
_JOB_BUNDLE, _RESULT_BUNDLE = 0x12, 0x6A


class JobRow(NamedTuple):
    """A job that was read; attributes as of ``engine_pb2.Job``."""

    id: int
    bundle_digest: str
    remaining_us: int
    priority: int
    input: Given


class ResultRow(NamedTuple):
    """An answer that was read; attributes as of ``engine_pb2.Result``, of which it is one with status OK."""

    id: int
    label: int
    decision: int
    score: float
    truncated: bool | int
    tokens: int
    queue_us: int
    engine_us: int
    batch_size: int
    bundle_digest: str
    probabilities: Sequence[float]
    status: int = engine_pb2.RESULT_STATUS_OK
    message: str = ""
    reasons: Sequence[Any] = ()


def write_job(id: int, bundle: str, remaining_us: int, priority: int, raw: bytes) -> bytes:
    """Write the frame of a job; ``raw`` is its input's message."""
    name, size = _named(_JOB_BUNDLE, bundle), len(raw)
    whole = size + len(name) + 19
    if whole >= _MOST:
        frame = engine_pb2.Frame()
        job = frame.job
        job.id, job.bundle_digest, job.remaining_us = id, bundle, remaining_us
        job.priority = priority  # type: ignore[assignment]
        job.input.ParseFromString(raw)
        return _framed(frame)
    head = _JOB_HEAD.pack(
        whole + 3, _JOB, _two_bytes(whole),
        0x09, id, 0x1D, remaining_us, 0x20, priority, 0x2A, _two_bytes(size),
    )  # fmt: skip
    return b"".join((head, raw, name))


def read_job(data: bytes, at: int, after: int) -> JobRow | None:
    """Read the frame at ``data[at:after]``, its length and all; None where it is to be read in the general way."""
    start = at + _JOB_HEAD.size
    if start > after or data[at + 4] != _JOB:
        return None
    found = _JOB_HEAD.unpack_from(data, at)
    priority, size = found[8], _length(found[10])
    end = start + size
    # A priority of two bytes would have the next tag for its second.
    is_whole = _length(found[2]) == found[0] - 3 and priority < 0x80 and start <= end <= after
    if found[1::2] != _JOB_TAGS or not is_whole:
        return None
    name, given = _name(_JOB_BUNDLE, data[end:after]), only_text(data[start:end])
    return None if name is None or given is None else JobRow(found[4], name, found[6], priority, given)


def write_result(row: ResultRow) -> bytes:
    """Write the frame of an answer."""
    name, size = _named(_RESULT_BUNDLE, row.bundle_digest), 4 * len(row.probabilities)
    whole = size + len(name) + 49
    if whole >= _MOST:
        return _framed(engine_pb2.Frame(result=engine_pb2.Result(**row._asdict())))
    head = _RESULT_HEAD.pack(
        whole + 3, _RESULT, _two_bytes(whole),
        0x09, row.id, 0x2D, row.label, 0x35, row.decision, 0x3D, row.score, 0x40, row.truncated, 0x4D, row.tokens,
        0x55, row.queue_us, 0x5D, row.engine_us, 0x65, row.batch_size, 0x22, _two_bytes(size),
    )  # fmt: skip
    return b"".join((head, _floats(len(row.probabilities)).pack(*row.probabilities), name))


def read_result(data: bytes, at: int, after: int) -> ResultRow | None:
    """Read the frame at ``data[at:after]``, its length and all; None where it is to be read in the general way."""
    start = at + _RESULT_HEAD.size
    if start > after or data[at + 4] != _RESULT:
        return None
    found = _RESULT_HEAD.unpack_from(data, at)
    truncated, size = found[12], _length(found[22])
    if found[1::2] != _RESULT_TAGS or _length(found[2]) != found[0] - 3 or size & 3 or start + size > after:
        return None
    if truncated > 1:
        return None
    name = _name(_RESULT_BUNDLE, data[start + size : after])
    if name is None:
        return None
    id, label, decision, score, truncated, tokens, queue_us, engine_us, batch_size = found[4:21:2]
    probabilities = _floats(size >> 2).unpack_from(data, start)
    return ResultRow(
        id, label, decision, score, truncated, tokens, queue_us, engine_us, batch_size, name, probabilities
    )


def _framed(frame: engine_pb2.Frame) -> bytes:
    body = frame.SerializeToString()
    return len(body).to_bytes(4, "little") + body


def _two_bytes(length: int) -> int:
    return length & 0x7F | 0x80 | length >> 7 << 8


def _length(two_bytes: int) -> int:
    """Undo ``_two_bytes``; -1 where the first byte does not say that another follows, or the second does."""
    return two_bytes & 0x7F | two_bytes >> 8 << 7 if two_bytes & 0x8080 == 0x80 else -1


@lru_cache(maxsize=1024)
def _named(tag: int, bundle: str) -> bytes:
    encoded = bundle.encode()
    return bytes((tag, len(encoded))) + encoded if len(encoded) < 0x80 else b"\0" * _MOST  # not in this way


@lru_cache(maxsize=1024)
def _name(tag: int, field: bytes) -> str | None:
    """Read a field that is all there is."""
    if len(field) < 2 or field[0] != tag or field[1] != len(field) - 2 or field[1] >= 0x80:
        return None
    try:
        return field[2:].decode()
    except UnicodeDecodeError:
        return None


@lru_cache(maxsize=256)
def _floats(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}f")
