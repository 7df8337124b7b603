"""The ModelInfer of hot paths, one text in and one row out, read and written as bytes.

Requests of one caller differ in their text, their id and their parameters; what is left (the model, the inputs'
descriptions, the outputs asked for) is the same for very many of them, is read once as any message is, and its
meaning kept. Answers are joined from parts in the same way. What is not such a request takes the general way, which
also says what is wrong with it: ``rpc/oip_tensors.py``.
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from gateway.domain.decision import Decision, Question
from gateway.errors import Malformed, PromptRejected
from gateway.rpc.oip_config import VERSION
from gateway.rpc.oip_tensors import Wanted, described, raw_output, read_options, read_question, write_common
from gateway.rpc.wire import parse
from protos import oip_pb2
from protos.contract.given import NO_FIELDS, Given, text_field
from protos.contract.task import TaskSpec

# Tags of ModelInferRequest's fields, all of them of a length and its bytes.
_ID, _PARAMETERS, _RAW = 0x1A, 0x22, 0x3A
_SAME = frozenset((0x0A, 0x12, 0x2A, 0x32))  # model_name, model_version, inputs, outputs
_RAW_OUTPUT = 0x32  # of a ModelInferResponse
_LENGTH = struct.Struct("<I")
_SCORE = struct.Struct("<BBf")  # such an output of four bytes
_MOST_KEPT = 1024
_MOST_HEADS = 64  # of a kind: an arm's change with every plan
_CACHED = oip_pb2.ModelInferResponse(parameters={"cached": oip_pb2.InferParameter(bool_param=True)}).SerializeToString()


class Cut(NamedTuple):
    """A request in parts. ``kind`` is what it has in common with others; ``options`` its parameters, as a message."""

    kind: bytes
    id: bytes
    options: bytes
    raw: bytes


class Kind(NamedTuple):
    """What requests of a kind ask for."""

    task: TaskSpec
    wanted: Wanted
    is_flat: bool
    heads: dict[tuple[int, str, int, int], bytes]  # what answers have in common, by arm, bundle, plan and fallback


class Row(NamedTuple):
    """A request that was read."""

    id: str
    kind: Kind
    question: Question


def cut(payload: bytes) -> Cut | None:
    """Take a request apart; None where it has not exactly one raw tensor, at its end."""
    at, end = 0, len(payload)
    kind, options, request_id = b"", b"", b""
    try:
        while at < end:
            tag, length, start = payload[at], payload[at + 1], at + 2
            if length >= 0x80:
                more = payload[start]
                if more >= 0x80:
                    return None
                length, start = length - 0x80 + (more << 7), start + 1
            after = start + length
            if tag in _SAME:
                kind += payload[at:after]
            elif tag == _RAW:
                return Cut(kind, request_id, options, payload[start:after]) if after == end else None
            elif tag == _ID:
                request_id = payload[start:after]
            elif tag == _PARAMETERS:
                options += payload[at:after]
            else:
                return None
            at = after
    except IndexError:
        pass
    return None


def cut_again(payload: bytes, kind: bytes) -> Cut | None:
    """Take a request of a known kind apart that has neither id nor parameters; None where it is none."""
    at = len(kind)
    if not payload.startswith(kind) or len(payload) < at + 3 or payload[at] != _RAW:
        return None
    length, start = payload[at + 1], at + 2
    if length >= 0x80:
        more = payload[start]
        if more >= 0x80:
            return None
        length, start = length - 0x80 + (more << 7), start + 1
    return Cut(kind, b"", b"", payload[start:]) if start + length == len(payload) else None


class RowReader:
    """Reads such requests. ``task_of(name, version)`` finds a task, and may raise."""

    def __init__(self, task_of: Callable[[str, str], TaskSpec]) -> None:
        self._task_of = task_of
        self._kinds: dict[bytes, Kind] = {}
        self._last = b""  # the kind of the last request that had neither id nor parameters

    def read(self, payload: bytes) -> Row | None:
        """Return what a request asks; None where it takes the general way. Raises PromptRejected of its parameters."""
        parts = cut_again(payload, self._last) or cut(payload)
        if parts is None:
            return None
        if not (parts.id or parts.options):
            self._last = parts.kind
        kind = self._kinds.get(parts.kind)
        # Another plan may have another task of the same name.
        if kind is None or self._task_of(kind.task.name, "") is not kind.task:
            kind = self._learn(parts.kind, payload)
            if kind is None:
                return None
        raw = parts.raw
        if len(raw) < 4 or _LENGTH.unpack_from(raw)[0] != len(raw) - 4:
            return None
        try:
            encoded, request_id = raw[4:], parts.id.decode()
            text = encoded.decode()
        except UnicodeDecodeError:
            return None
        options = read_options(parse(oip_pb2.ModelInferRequest, parts.options)) if parts.options else {}
        decision_id = options.pop("decision_id", "") or request_id
        given = Given(text, NO_FIELDS, text_field(encoded))
        if not options:
            return Row(request_id, kind, Question(kind.task.name, given, "", decision_id))
        return Row(request_id, kind, Question(kind.task.name, given, decision_id=decision_id, **options))

    def _learn(self, key: bytes, payload: bytes) -> Kind | None:
        try:
            request = parse(oip_pb2.ModelInferRequest, payload)
            task = self._task_of(request.model_name, request.model_version)
            asked = read_question(request, task)
        except (PromptRejected, Malformed):
            return None
        if len(asked.questions) != 1 or not asked.questions[0].input.text:
            return None
        if len(self._kinds) >= _MOST_KEPT:
            self._kinds.clear()
        kind = self._kinds[key] = Kind(task, asked.wanted, asked.is_flat, {})
        return kind


def write_row(row: Row, answer: Decision) -> bytes:
    """Write the answer, the same message as the general way would give.

    Parts of a message may be joined as bytes, in any order.
    """
    kind = row.kind
    name = answer.decision_id.encode()
    same = answer.arm, answer.bundle_digest, answer.plan_generation, answer.fallback
    parts = [kind.heads.get(same) or _head(kind, *same), _bucket(answer.bucket), _before_id(len(name)), name]
    if row.id:
        parts.append(_field(_ID, row.id.encode()))
    if answer.cached:
        parts.append(_CACHED)
    for output, count in kind.wanted:
        if output == "score":
            parts.append(_SCORE.pack(_RAW_OUTPUT, 4, answer.score))
        else:
            parts.append(_field(_RAW_OUTPUT, raw_output(output, count, kind.task, (answer,))))
    return b"".join(parts)


def _field(tag: int, value: bytes) -> bytes:
    """Write a field of bytes."""
    return b"".join((bytes((tag,)), _varint(len(value)), value))


def _varint(number: int) -> bytes:
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _head(kind: Kind, arm: int, bundle: str, generation: int, reason: int) -> bytes:
    """Write what all answers of an arm have in common, and keep it."""
    task, kept = kind.task, kind.heads
    response = oip_pb2.ModelInferResponse(model_name=task.name, model_version=VERSION)
    write_common(response, arm, bundle, generation, reason)
    if len(kept) >= _MOST_HEADS:
        kept.clear()
    outputs = described(kind.wanted, len(task.labels), 1, kind.is_flat)
    head = kept[arm, bundle, generation, reason] = outputs + response.SerializeToString()
    return head


@lru_cache(maxsize=1024)
def _before_id(length: int) -> bytes:
    """Write what stands before a decision's id, which so many bytes end."""
    whole = _field(_PARAMETERS, b"\x0a\x0bdecision_id" + _field(0x12, _field(0x1A, bytes(length))))
    return whole[: len(whole) - length]


@lru_cache(maxsize=10_000)
def _bucket(number: int) -> bytes:
    return _field(_PARAMETERS, b"\x0a\x06bucket" + _field(0x12, b"\x10" + _varint(number)))
