"""Open Inference Protocol v2: one model per specialist, wire-compatible with Triton's clients.

Inputs are the task's fields (BYTES, FP64, INT64, BOOL), one row per decision. Outputs are always
raw: ``label`` and ``decision`` BYTES, ``score`` FP32, ``probabilities`` FP32 [rows, labels], the
last also as classification strings. Response parameters describe the first row.
"""

import struct
from collections.abc import Sequence

import numpy as np

from gateway.errors import GatewayError, PromptRejected, UnknownSpecialist
from gateway.rpc.decide import decide_all
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import Call, Kind, Method, parse
from protos import decide_pb2, oip_pb2
from protos.contract.task import TaskSpec

SERVICE = "inference.GRPCInferenceService"
VERSION = "1"
PLATFORM = "interlock"
MAX_ROWS = 64
DATATYPES = {"text": "BYTES", "number": "FP64", "integer": "INT64", "flag": "BOOL"}
OUTPUTS = ("label", "probabilities", "score", "decision")
_CONTENTS = {"text": "bytes_contents", "number": "fp64_contents", "integer": "int64_contents", "flag": "bool_contents"}
_NUMPY = {"number": "<f8", "integer": "<i8", "flag": "?"}
_ARMS = {value: name.removeprefix("ARM_").lower() for name, value in decide_pb2.Arm.items()}
_REASONS = {value: name.removeprefix("FALLBACK_REASON_").lower() for name, value in decide_pb2.FallbackReason.items()}
_TEXTS = ("routing_key", "decision_id")
_BUDGETS = ("budget_us", "timeout")  # ``timeout`` is Triton's, in microseconds too

Row = dict[str, decide_pb2.Value]


class InferenceService:
    """The six core methods."""

    def __init__(self, gateway: Gateway, server_version: str) -> None:
        self._gateway = gateway
        self._server_version = server_version

    def methods(self) -> list[Method]:
        """Return this service's part of the method table."""
        handlers = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        return [Method(f"/{SERVICE}/{name}", Kind.UNARY, handler) for name, handler in handlers.items()]

    async def server_live(self, call: Call, data: bytes) -> bytes:
        """Say that this process runs."""
        return oip_pb2.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, call: Call, data: bytes) -> bytes:
        """Say whether every specialist can answer."""
        return oip_pb2.ServerReadyResponse(ready=self._gateway.is_ready()).SerializeToString()

    async def model_ready(self, call: Call, data: bytes) -> bytes:
        """Say whether one specialist can answer; not ready is OK and false."""
        request = parse(oip_pb2.ModelReadyRequest, data)
        self._task(request.name, request.version)
        return oip_pb2.ModelReadyResponse(ready=self._gateway.is_ready_for(request.name)).SerializeToString()

    async def server_metadata(self, call: Call, data: bytes) -> bytes:
        """Name the server and the extensions that are true of it."""
        return oip_pb2.ServerMetadataResponse(
            name="interlock", version=self._server_version, extensions=["classification", "parameters"]
        ).SerializeToString()

    async def model_metadata(self, call: Call, data: bytes) -> bytes:
        """Describe a specialist's tensors."""
        request = parse(oip_pb2.ModelMetadataRequest, data)
        task = self._task(request.name, request.version)
        answer = oip_pb2.ModelMetadataResponse(name=task.name, versions=[VERSION], platform=PLATFORM)
        for field in task.fields:
            answer.inputs.add(name=field.name, datatype=DATATYPES[field.kind], shape=[-1])
        for name in OUTPUTS:
            shape = [-1, len(task.labels)] if name == "probabilities" else [-1]
            answer.outputs.add(name=name, datatype="BYTES" if name in ("label", "decision") else "FP32", shape=shape)
        return answer.SerializeToString()

    async def model_infer(self, call: Call, data: bytes) -> bytes:
        """Decide every row of a request."""
        request = parse(oip_pb2.ModelInferRequest, data)
        task = self._task(request.model_name, request.model_version)
        wanted = _wanted_outputs(request, task)
        rows = _rows(request, task)
        decisions = [_decision(request, task, row, index, len(rows)) for index, row in enumerate(rows)]
        if len(decisions) == 1:  # the rule on hot paths: no task of its own, no check before the check
            try:
                answers = [await self._gateway.decide(decisions[0], call.deadline)]
            except GatewayError as error:
                raise error.at("row[0]") from error.__cause__
        else:
            answers = await decide_all(self._gateway, decisions, call.deadline, "row")
        return _response(request, task, wanted, answers).SerializeToString()

    def _task(self, name: str, version: str) -> TaskSpec:
        task = self._gateway.task(name)
        if version not in ("", VERSION):
            raise UnknownSpecialist(name, version)
        return task


def _wanted_outputs(request: oip_pb2.ModelInferRequest, task: TaskSpec) -> dict[str, int]:
    """Return output name to classification count, 0 for plain values."""
    if not request.outputs:
        return dict.fromkeys(OUTPUTS, 0)
    wanted = {}
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise PromptRejected(f"output {output.name[:80]!r} is unknown, expected one of {', '.join(OUTPUTS)}")
        count = 0
        if "classification" in output.parameters:
            count = output.parameters["classification"].int64_param
            if output.name != "probabilities" or not count > 0:
                raise PromptRejected(
                    f"output {output.name!r}: classification is {count}, expected above 0 and on 'probabilities'"
                )
        wanted[output.name] = min(count, len(task.labels))
    return wanted


def _rows(request: oip_pb2.ModelInferRequest, task: TaskSpec) -> list[Row]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise PromptRejected(f"raw_input_contents has {len(raws)} entries, expected {len(request.inputs)}")
    kinds = {field.name: field.kind for field in task.fields}
    columns: dict[str, list[decide_pb2.Value]] = {}
    for index, tensor in enumerate(request.inputs):
        kind = kinds.get(tensor.name)
        if kind is None:
            raise PromptRejected(f"input {tensor.name[:80]!r} is unknown, expected one of {', '.join(kinds)}")
        if tensor.name in columns:
            raise PromptRejected(f"input {tensor.name!r} is given twice")
        if tensor.datatype != DATATYPES[kind]:
            raise PromptRejected(
                f"input {tensor.name!r}: datatype is {tensor.datatype[:20]!r}, expected {DATATYPES[kind]}"
            )
        if raws and tensor.HasField("contents"):
            raise PromptRejected(f"input {tensor.name!r} has contents beside raw_input_contents, expected one of them")
        columns[tensor.name] = _column(tensor, kind, raws[index] if raws else None)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise PromptRejected(f"inputs have {sorted(lengths)} rows, expected every input once and equally long")
    return [{name: column[i] for name, column in columns.items()} for i in range(lengths.pop())]


def _column(tensor: oip_pb2.ModelInferRequest.InferInputTensor, kind: str, raw: bytes | None) -> list[decide_pb2.Value]:
    shape = list(tensor.shape)
    is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not is_column or not 0 < shape[0] <= MAX_ROWS:
        raise PromptRejected(
            f"input {tensor.name!r}: shape is {shape[:8]}, expected [rows] or [rows, 1] with 1 to {MAX_ROWS} rows"
        )
    if raw is None:
        values: Sequence[object] = getattr(tensor.contents, _CONTENTS[kind])
    elif kind == "text":
        values = _split_bytes(tensor.name, raw)
    else:
        width = np.dtype(_NUMPY[kind])
        if len(raw) % width.itemsize:
            raise PromptRejected(
                f"input {tensor.name!r}: {len(raw)} raw bytes, expected a multiple of {width.itemsize}"
            )
        values = np.frombuffer(raw, width).tolist()
    if len(values) != shape[0]:
        raise PromptRejected(f"input {tensor.name!r}: {len(values)} elements, expected {shape[0]} as its shape says")
    return [_value(tensor.name, kind, value) for value in values]


def _split_bytes(name: str, raw: bytes) -> list[bytes]:
    elements, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise PromptRejected(f"input {name!r}: raw bytes end inside a length, expected uint32 and that many bytes")
        (length,) = struct.unpack_from("<I", raw, at)
        if at + 4 + length > len(raw):
            raise PromptRejected(f"input {name!r}: an element of {length} bytes goes past the end of the raw bytes")
        elements.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return elements


def _value(name: str, kind: str, value: object) -> decide_pb2.Value:
    if kind == "text":
        assert isinstance(value, bytes)
        try:
            return decide_pb2.Value(text=value.decode())
        except UnicodeDecodeError as error:
            raise PromptRejected(f"input {name!r} is not UTF-8 at byte {error.start}") from error
    return decide_pb2.Value(**{kind: value})  # type: ignore[arg-type]


def _decision(
    request: oip_pb2.ModelInferRequest, task: TaskSpec, row: Row, index: int, rows: int
) -> decide_pb2.DecideRequest:
    decision = decide_pb2.DecideRequest(specialist=task.name)
    if len(task.fields) == 1 and task.fields[0].kind == "text":
        decision.input.text = row[task.fields[0].name].text
    else:
        for name, value in row.items():
            decision.input.fields[name].CopyFrom(value)
    for name in _TEXTS:
        if name in request.parameters:
            setattr(decision, name, request.parameters[name].string_param)
    for name in _BUDGETS:
        if name in request.parameters:
            parameter = request.parameters[name]
            budget = parameter.int64_param or parameter.uint64_param
            if not 0 < budget < 2**32:
                raise PromptRejected(f"parameter {name!r} is {budget}, expected microseconds from 1 to {2**32 - 1}")
            decision.budget_us = budget
    if not decision.decision_id and request.id:
        decision.decision_id = request.id
    if rows > 1 and decision.decision_id:
        decision.decision_id += f"/{index}"
    return decision


def _response(
    request: oip_pb2.ModelInferRequest,
    task: TaskSpec,
    wanted: dict[str, int],
    answers: Sequence[decide_pb2.DecideResponse],
) -> oip_pb2.ModelInferResponse:
    response = oip_pb2.ModelInferResponse(model_name=task.name, model_version=VERSION, id=request.id)
    first = answers[0]
    parameters = response.parameters
    parameters["decision_id"].string_param = first.decision_id
    parameters["arm"].string_param = _ARMS[first.arm]
    parameters["bundle_digest"].string_param = first.bundle_digest
    parameters["plan_generation"].int64_param = first.plan_generation
    parameters["bucket"].int64_param = first.bucket
    parameters["fallback"].bool_param = first.fallback.used
    if first.fallback.used:
        parameters["fallback_reason"].string_param = _REASONS[first.fallback.reason]
    rows, labels = len(answers), len(task.labels)
    # A fallback has no probabilities; zeros say so and keep the tensor's shape.
    flat = [p for a in answers for p in ([x.probability for x in a.probabilities] or [0.0] * labels)]
    for name, count in wanted.items():
        if name == "probabilities" and count:
            table = np.array(flat, "<f4").reshape(rows, labels)
            order = np.argsort(-table, axis=1, kind="stable")[:, :count]
            texts = [f"{table[i, j]:f}:{j}:{task.labels[j]}".encode() for i in range(rows) for j in order[i]]
            _add(response, name, "BYTES", [rows, count], _join_bytes(texts))
        elif name == "probabilities":
            _add(response, name, "FP32", [rows, labels], _floats(flat))
        elif name == "score":
            _add(response, name, "FP32", [rows], _floats([a.score for a in answers]))
        else:
            _add(response, name, "BYTES", [rows], _join_bytes([getattr(a, name).encode() for a in answers]))
    return response


def _add(response: oip_pb2.ModelInferResponse, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)


def _floats(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _join_bytes(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
