"""Tensors into decisions to make, and decisions made into tensors.

Inputs are the task's fields (BYTES, FP64, INT64, BOOL), one row per decision, shaped [rows, 1] or
[rows]. Outputs are always raw, shaped as the inputs were: ``label`` and ``decision`` BYTES, ``score``
FP32, and ``probabilities`` FP32 [rows, labels], the last also as classification strings. Response
parameters describe the first row.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.domain.decision import Decision, Question
from gateway.errors import PromptRejected
from gateway.rpc.oip_config import DATATYPES, MAX_ROWS, OUTPUTS, VERSION, output_width
from protos import decide_pb2, oip_pb2
from protos.contract.given import Given
from protos.contract.task import TaskSpec

EMPTY_FINAL = "triton_enable_empty_final_response"  # asks for what a stream here says of every answer
_CONTENTS = {"text": "bytes_contents", "number": "fp64_contents", "integer": "int64_contents", "flag": "bool_contents"}
_PACKED = {"number": ("d", 8), "integer": ("q", 8), "flag": ("?", 1)}
_ARMS = {value: name.removeprefix("ARM_").lower() for name, value in decide_pb2.Arm.items()}
_REASONS = {value: name.removeprefix("FALLBACK_REASON_").lower() for name, value in decide_pb2.FallbackReason.items()}
_TEXTS = ("routing_key", "decision_id")
_BUDGETS = ("budget_us", "timeout")  # ``timeout`` is Triton's, in microseconds too
_NOT_HONOURED = {
    "priority": "the traffic plan sets priorities",
    "sequence_id": "specialists keep nothing between calls",
    "sequence_start": "specialists keep nothing between calls",
    "sequence_end": "specialists keep nothing between calls",
}
_LENGTH = struct.Struct("<I")

Wanted = tuple[tuple[str, int], ...]  # outputs in order, each with its classification count, 0 for plain values


class Asked(NamedTuple):
    """What one ModelInfer asks."""

    questions: list[Question]
    wanted: Wanted
    is_flat: bool  # inputs were [rows], so outputs of one value a row are too


def read_question(request: oip_pb2.ModelInferRequest, task: TaskSpec) -> Asked:
    """Read a request's tensors and parameters; raises PromptRejected."""
    wanted = _wanted(request, task)
    options = read_options(request) if request.parameters else {}
    columns, is_flat = _columns(request, task)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise PromptRejected(f"inputs have {sorted(lengths)} rows, expected every input once and equally long")
    rows = lengths.pop()
    decision_id = options.pop("decision_id", "") or request.id
    only_text = task.fields[0].name if len(task.fields) == 1 and task.fields[0].kind == "text" else None
    questions = []
    for i in range(rows):
        if only_text is not None:
            given = Given.of_text(columns[only_text][i])
        else:
            message = decide_pb2.Input()
            for field in task.fields:
                if field.name in columns:
                    setattr(message.fields[field.name], field.kind, columns[field.name][i])
            given = Given.of(message)
        name = f"{decision_id}/{i}" if decision_id and rows > 1 else decision_id
        questions.append(Question(task.name, given, decision_id=name, **options))
    return Asked(questions, wanted, is_flat)


def _wanted(request: oip_pb2.ModelInferRequest, task: TaskSpec) -> Wanted:
    if not request.outputs:
        return tuple((name, 0) for name in OUTPUTS)
    wanted = {}
    for output in request.outputs:
        name = output.name
        if name not in OUTPUTS:
            raise PromptRejected(f"output {name[:80]!r} is unknown, expected one of {', '.join(OUTPUTS)}")
        wanted[name] = _classification(name, output.parameters, task) if output.parameters else 0
    return tuple(wanted.items())


def _classification(name: str, parameters: Any, task: TaskSpec) -> int:
    _refuse_shared_memory("output", name, parameters)
    if "classification" not in parameters:
        return 0
    count: int = parameters["classification"].int64_param
    if name != "probabilities" or not count > 0:
        raise PromptRejected(f"output {name!r}: classification is {count}, expected above 0 and on 'probabilities'")
    return min(count, len(task.labels))


def _refuse_shared_memory(noun: str, name: str, parameters: Any) -> None:
    if "shared_memory_region" in parameters:
        region = parameters["shared_memory_region"].string_param
        raise PromptRejected(f"{noun} {name!r}: shared_memory_region is {region[:80]!r}, expected the data in the call")


def read_options(request: oip_pb2.ModelInferRequest) -> dict[str, Any]:
    """Read the request's parameters as fields of a Question; those of other servers' models are let be."""
    options: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value: Any = getattr(parameter, kind) if kind else None
        if name in _TEXTS:
            if kind != "string_param":
                raise PromptRejected(f"parameter {name!r} is {kind or 'empty'}, expected string_param")
            options[name] = value
        elif name in _BUDGETS:
            if kind not in ("int64_param", "uint64_param") or not 0 <= value < 2**32:
                raise PromptRejected(f"parameter {name!r} is {value!r}, expected microseconds from 0 to {2**32 - 1}")
            if value:
                options["budget_us"] = min(value, options.get("budget_us", value))
        elif name in _NOT_HONOURED:
            if value:
                raise PromptRejected(f"parameter {name!r} is {value!r}, expected none: {_NOT_HONOURED[name]}")
        elif name.startswith("triton_") and name != EMPTY_FINAL:
            raise PromptRejected(
                f"parameter {name[:80]!r} is unknown, expected no other 'triton_' than {EMPTY_FINAL!r}"
            )
    return options


def _columns(request: oip_pb2.ModelInferRequest, task: TaskSpec) -> tuple[dict[str, Sequence[Any]], bool]:
    inputs, raws = request.inputs, request.raw_input_contents
    if raws and len(raws) != len(inputs):
        raise PromptRejected(f"raw_input_contents has {len(raws)} entries, expected {len(inputs)}")
    kinds = {field.name: field.kind for field in task.fields}
    columns: dict[str, Sequence[Any]] = {}
    is_flat = True
    for index, tensor in enumerate(inputs):
        name = tensor.name
        kind = kinds.get(name)
        if kind is None:
            raise PromptRejected(f"input {name[:80]!r} is unknown, expected one of {', '.join(kinds)}")
        if name in columns:
            raise PromptRejected(f"input {name!r} is given twice")
        if tensor.datatype != DATATYPES[kind]:
            raise PromptRejected(f"input {name!r}: datatype is {tensor.datatype[:20]!r}, expected {DATATYPES[kind]}")
        if tensor.parameters:
            _refuse_shared_memory("input", name, tensor.parameters)
        shape = tensor.shape
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or not 0 < shape[0] <= MAX_ROWS:
            raise PromptRejected(
                f"input {name!r}: shape is {list(shape[:8])}, expected [rows] or [rows, 1] with 1 to {MAX_ROWS} rows"
            )
        is_flat = is_flat and len(shape) == 1
        if not raws:
            values: Sequence[Any] = getattr(tensor.contents, _CONTENTS[kind])
        elif tensor.HasField("contents"):
            raise PromptRejected(f"input {name!r} has contents beside raw_input_contents, expected one of them")
        else:
            values = _unpack(name, kind, raws[index])
        if len(values) != shape[0]:
            raise PromptRejected(f"input {name!r}: {len(values)} elements, expected {shape[0]} as its shape says")
        columns[name] = _texts(name, values) if kind == "text" else values
    return columns, is_flat


def _unpack(name: str, kind: str, raw: bytes) -> Sequence[Any]:
    if kind == "text":
        return _split(name, raw)
    code, width = _PACKED[kind]
    if len(raw) % width:
        raise PromptRejected(f"input {name!r}: {len(raw)} raw bytes, expected a multiple of {width}")
    return struct.unpack(f"<{len(raw) // width}{code}", raw)


def _split(name: str, raw: bytes) -> list[bytes]:
    elements, at, end = [], 0, len(raw)
    while at < end:
        if at + 4 > end:
            raise PromptRejected(f"input {name!r}: raw bytes end inside a length, expected uint32 and that many bytes")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if at + length > end:
            raise PromptRejected(f"input {name!r}: an element of {length} bytes goes past the end of the raw bytes")
        elements.append(raw[at : at + length])
        at += length
    return elements


def _texts(name: str, values: Sequence[bytes]) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise PromptRejected(f"input {name!r} is not UTF-8 at byte {error.start}") from error


def write_answer(request_id: str, task: TaskSpec, asked: Asked, answers: Sequence[Decision]) -> bytes:
    """Write a ModelInferResponse."""
    first = answers[0]
    response = oip_pb2.ModelInferResponse(model_name=task.name, model_version=VERSION, id=request_id)
    parameters = response.parameters
    parameters["decision_id"].string_param = first.decision_id
    write_common(response, first.arm, first.bundle_digest, first.plan_generation, first.fallback)
    parameters["bucket"].int64_param = first.bucket
    if first.cached:
        parameters["cached"].bool_param = True
    response.raw_output_contents.extend([raw_output(name, count, task, answers) for name, count in asked.wanted])
    outputs = described(asked.wanted, len(task.labels), len(answers), asked.is_flat)
    return outputs + response.SerializeToString()


def write_common(response: oip_pb2.ModelInferResponse, arm: int, bundle: str, generation: int, reason: int) -> None:
    """Write the parameters that all answers of an arm have in common. ``reason`` is a fallback's, 0 without one."""
    parameters = response.parameters
    parameters["arm"].string_param = _ARMS[arm]
    parameters["bundle_digest"].string_param = bundle
    parameters["plan_generation"].int64_param = generation
    parameters["fallback"].bool_param = bool(reason)
    if reason:
        parameters["fallback_reason"].string_param = _REASONS[reason]


@lru_cache(maxsize=512)
def described(wanted: Wanted, labels: int, rows: int, is_flat: bool) -> bytes:
    """Serialise a response's output descriptions alone.

    They are the same for every request of a kind, and parts of a message may be joined as bytes;
    building them anew each time would be the largest cost of an answer.
    """
    response = oip_pb2.ModelInferResponse()
    for name, count in wanted:
        shape = [rows] if is_flat and name != "probabilities" else [rows, count or output_width(name, labels)]
        response.outputs.add(name=name, datatype="BYTES" if count else OUTPUTS[name], shape=shape)
    return response.SerializeToString()


def raw_output(name: str, count: int, task: TaskSpec, answers: Sequence[Decision]) -> bytes:
    """Write one output of all rows."""
    if name == "label":
        return _join([answer.label.encode() for answer in answers])
    if name == "decision":
        return _join([answer.decision.encode() for answer in answers])
    if name == "score":
        return struct.pack(f"<{len(answers)}f", *[answer.score for answer in answers])
    labels = task.labels
    # A fallback has no probabilities; zeros say so and keep the tensor's shape.
    table = [answer.probabilities or [0.0] * len(labels) for answer in answers]
    if not count:
        return b"".join([struct.pack(f"<{len(row)}f", *row) for row in table])
    texts = []
    for row in table:
        best = sorted(range(len(labels)), key=lambda j: -row[j])[:count]  # noqa: B023 - used at once
        texts += [f"{row[j]:f}:{j}:{labels[j]}".encode() for j in best]
    return _join(texts)


def _join(elements: list[bytes]) -> bytes:
    return b"".join([_LENGTH.pack(len(element)) + element for element in elements])
