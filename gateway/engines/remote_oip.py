"""Any server of the Open Inference Protocol: Triton, MLServer, OpenVINO Model Server, KServe, another gateway.

Presets differ in what servers do beside the protocol:

``generic``       a model from text or token ids to one score a label
``mlserver``      the same; its own errors all come as INVALID_ARGUMENT, and text needs a content type
``ovms``          the same; the server is ready although a model may not be, so models are asked one by one
``triton-llmapi`` TensorRT-LLM behind Triton's LLM API backend: text in, text and its log-probability out
"""

import math
import struct
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from typing import Any

from gateway.domain.capabilities import EXACT, TOPK, Capabilities, Health
from gateway.engines.label_scores import SMALLEST, each, from_probabilities, only
from gateway.engines.oip_values import Tensor, numbers, read_outputs, read_rows
from gateway.engines.ports import (
    Broken,
    Endpoint,
    EngineProblem,
    GenerateJob,
    Identity,
    InputRefused,
    LabelScores,
    Piece,
    ScoreJob,
    Served,
)
from gateway.engines.remote_grpc import UNARY_TIMEOUT_S, Channels, ask
from gateway.serving.ports import BundleRefused
from protos import oip_pb2, oip_pb2_grpc
from protos.contract.engines import OIP_PRESETS
from protos.contract.fields import FieldInvalid, Reader

SCORES = ("probabilities", "logprobs", "logits")
TOKEN_DATATYPES = {"INT64": "q", "INT32": "i"}
MASK = "attention_mask"
OPTIONAL_TOKEN_INPUTS = {MASK: 1, "token_type_ids": 0}


class Settings:
    """A bundle's ``engine`` table, checked."""

    def __init__(self, served: Served) -> None:
        read = Reader(served.settings, "manifest.engine")
        read.text("backend")
        self.preset = read.text("preset", "generic", choices=OIP_PRESETS)
        self.model = read.text("model")
        self.version = read.maybe_text("version") or ""
        is_llm = self.preset == "triton-llmapi"
        self.input = read.text("input", "text_input" if is_llm else "text")
        self.output = read.text("output", "text_output" if is_llm else "probabilities")
        self.scores = read.text("scores", "probabilities", choices=SCORES)
        read.object("verbalizers", {})
        read.done()


class OipEngine:
    """One OIP server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._channels = Channels(endpoint)
        self._stubs = self._channels.stubs(oip_pb2_grpc.GRPCInferenceServiceStub)
        self._kept: dict[str, tuple[Settings, dict[str, Tensor]]] = {}

    async def health(self) -> Health:
        """Ask whether the server is ready; that its models are is asked for each bundle."""
        request = oip_pb2.ServerReadyRequest()
        try:
            answer = await ask(self._stubs.next().ServerReady(request, **self._options(UNARY_TIMEOUT_S)))
        except EngineProblem as error:
            return Health(False, str(error))
        return Health(answer.ready, "" if answer.ready else "the server is not ready")

    async def load(self, served: Served) -> Capabilities:
        """Compare the server's model with what the bundle expects of it."""
        try:
            settings = Settings(served)
        except FieldInvalid as error:
            raise BundleRefused(str(error)) from error
        where = f"model {settings.model!r}"
        asked = oip_pb2.ModelReadyRequest(name=settings.model, version=settings.version)
        ready = await ask(self._stubs.next().ModelReady(asked, **self._options(UNARY_TIMEOUT_S)))
        if not ready.ready:
            raise BundleRefused(f"{where} is not ready at the server")
        named = oip_pb2.ModelMetadataRequest(name=settings.model, version=settings.version)
        metadata = await ask(self._stubs.next().ModelMetadata(named, **self._options(UNARY_TIMEOUT_S)))
        inputs = {t.name: Tensor(t.datatype, tuple(t.shape)) for t in metadata.inputs}
        outputs = {t.name: Tensor(t.datatype, tuple(t.shape)) for t in metadata.outputs}
        # MLServer's models may declare nothing; what they declare is held against the bundle.
        if inputs and settings.input not in inputs:
            raise BundleRefused(f"{where} has inputs {sorted(inputs)}, expected {settings.input!r}")
        if outputs and settings.output not in outputs:
            raise BundleRefused(f"{where} has outputs {sorted(outputs)}, expected {settings.output!r}")
        given = inputs.setdefault(settings.input, Tensor("BYTES", (-1,)))
        if given.datatype in TOKEN_DATATYPES and served.encode is None:
            raise BundleRefused(f"{where} reads token ids, expected tokenizer.json in the bundle")
        if given.datatype != "BYTES" and given.datatype not in TOKEN_DATATYPES:
            raise BundleRefused(f"{where}: input {settings.input!r} is {given.datatype}, expected BYTES or token ids")
        if settings.preset != "triton-llmapi":
            _check_width(where, outputs.get(settings.output), settings, len(served.task.labels))
        self._kept[served.digest] = settings, inputs
        is_llm = settings.preset == "triton-llmapi"
        return Capabilities(label_logprobs=TOPK if is_llm else EXACT, can_generate=is_llm)

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Say nothing: what a server has not is seen when it answers so."""
        return {}

    async def identify(self, served: Served) -> Identity:
        """Ask for the names and versions of model and server."""
        settings, _ = self._kept[served.digest]
        stub, options = self._stubs.next(), self._options(UNARY_TIMEOUT_S)
        named = oip_pb2.ModelMetadataRequest(name=settings.model, version=settings.version)
        model = await ask(stub.ModelMetadata(named, **options))
        server = await ask(stub.ServerMetadata(oip_pb2.ServerMetadataRequest(), **options))
        return Identity(model.name, settings.version or ", ".join(model.versions), server.name, server.version)

    async def unload(self, served: Served) -> None:
        """Forget what was found; the server's models are its operator's affair."""
        self._kept.pop(served.digest, None)

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Ask for one score a label."""
        return only(await self.score_many([job], timeout_s))

    def batch_key(self, job: ScoreJob) -> Hashable | None:
        """Join what the model has a free first dimension for; rows of unlike lengths only where it takes a mask."""
        settings, inputs = self._kept[job.served.digest]
        given = inputs[settings.input]
        if settings.preset == "triton-llmapi" or given.shape[:1] not in ((), (-1,)):
            return None
        if given.datatype == "BYTES":
            return job.served.digest
        if len(given.shape) < 2:  # one text's tokens
            return None
        return (job.served.digest, 0 if MASK in inputs else len(job.token_ids))

    async def score_many(self, jobs: Sequence[ScoreJob], timeout_s: float) -> list[LabelScores | EngineProblem]:
        """Ask for one row of label scores a text."""
        settings, inputs = self._kept[jobs[0].served.digest]
        request = oip_pb2.ModelInferRequest(model_name=settings.model, model_version=settings.version, id=jobs[0].id)
        if settings.preset == "triton-llmapi":
            _add_llm_inputs(request, jobs[0].text, max_tokens=1)
            answer = await self._infer(request, settings, timeout_s)
            return [_chosen(read_outputs(answer), jobs[0].served.answers)]
        if inputs[settings.input].datatype == "BYTES":
            rank = max(1, len(inputs[settings.input].shape))
            raw = b"".join(_bytes(job.text) for job in jobs)
            _add(request, settings.input, "BYTES", [len(jobs), *[1] * (rank - 1)], raw)
            if settings.preset == "mlserver":
                request.inputs[-1].parameters["content_type"].string_param = "str"
        else:
            _add_tokens(request, settings.input, inputs, [job.token_ids for job in jobs])
        request.outputs.add(name=settings.output)
        answer = await self._infer(request, settings, timeout_s)
        rows = read_rows(answer, settings.output, len(jobs))
        return each(jobs, rows, lambda job, row: _label_scores(settings, row, len(job.token_ids)))

    async def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Write text, all in one piece: the backend is not decoupled unless its operator made it so."""
        settings, _ = self._kept[job.served.digest]
        request = oip_pb2.ModelInferRequest(model_name=settings.model, model_version=settings.version, id=job.id)
        _add_llm_inputs(request, job.text, max_tokens=job.max_tokens)
        answer = await self._infer(request, settings, timeout_s)
        yield Piece(_text(read_outputs(answer)), job.max_tokens)

    async def close(self) -> None:
        """Close every connection."""
        await self._channels.close()

    async def _infer(
        self, request: oip_pb2.ModelInferRequest, settings: Settings, timeout_s: float
    ) -> oip_pb2.ModelInferResponse:
        try:
            return await ask(self._stubs.next().ModelInfer(request, **self._options(timeout_s)))
        except InputRefused as error:
            if settings.preset == "mlserver":  # which says so of everything that goes wrong in a model
                raise Broken(str(error)) from error
            raise

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"timeout": timeout_s, "metadata": self._channels.metadata}


def _label_scores(settings: Settings, row: tuple[float, ...], tokens: int) -> LabelScores:
    if settings.scores == "probabilities":
        return from_probabilities(row, prompt_tokens=tokens)
    return LabelScores(row, is_logits=settings.scores == "logits", prompt_tokens=tokens)


def _check_width(where: str, output: Tensor | None, settings: Settings, labels: int) -> None:
    if output is None:
        return
    if not output.datatype.startswith(("FP", "BF")):
        raise BundleRefused(f"{where}: output {settings.output!r} is {output.datatype}, expected floating point")
    if output.shape and output.shape[-1] not in (-1, labels):
        raise BundleRefused(
            f"{where}: output {settings.output!r} has shape {list(output.shape)}, expected {labels} in the last place"
        )


def _add(request: oip_pb2.ModelInferRequest, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)


def _bytes(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "little") + data


def _add_tokens(
    request: oip_pb2.ModelInferRequest, name: str, inputs: dict[str, Tensor], rows: list[tuple[int, ...]]
) -> None:
    """Add token ids and what goes with them, shorter rows filled with zeros at their end."""
    longest = max(map(len, rows))
    for input_name, constant in ((name, None), *OPTIONAL_TOKEN_INPUTS.items()):
        tensor = inputs.get(input_name)
        if tensor is None or tensor.datatype not in TOKEN_DATATYPES:
            continue
        code = TOKEN_DATATYPES[tensor.datatype]
        values: list[int] = []
        for ids in rows:
            values += ids if constant is None else [constant] * len(ids)
            values += [0] * (longest - len(ids))
        rank = max(1, len(tensor.shape))
        shape = [len(rows), *[1] * (rank - 2), longest] if rank > 1 else [longest]
        _add(request, input_name, tensor.datatype, shape, struct.pack(f"<{len(values)}{code}", *values))


def _add_llm_inputs(request: oip_pb2.ModelInferRequest, text: str, *, max_tokens: int) -> None:
    """Ask greedily, without the prompt in the answer; the backend has no batch dimension."""
    _add(request, "text_input", "BYTES", [1], _bytes(text))
    _add(request, "sampling_param_max_tokens", "INT32", [1], max_tokens.to_bytes(4, "little"))
    _add(request, "sampling_param_top_k", "INT32", [1], (1).to_bytes(4, "little"))
    _add(request, "sampling_param_exclude_input_from_output", "BOOL", [1], b"\1")
    _add(request, "return_cumulative_logprob", "BOOL", [1], b"\1")


def _text(outputs: dict[str, list[Any]]) -> str:
    values = outputs.get("text_output", [])
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise Broken(f"text_output has {len(values)} elements, expected one text")
    return str(values[0].decode(errors="replace"))


def _chosen(outputs: dict[str, list[Any]], answers: tuple[str, ...]) -> LabelScores:
    """Turn the one token that was written, and its log-probability, into bounds for all labels.

    The others hold at most what the chosen one leaves, and none more than the chosen one did, for it was the best.
    """
    written = _text(outputs)
    matches = [i for i, answer in enumerate(answers) if written.strip() == answer.strip()]
    if len(matches) != 1:
        raise Broken(f"the model wrote {written[:40]!r}, expected one of {', '.join(map(repr, answers))}")
    (logprob,) = numbers(outputs, "cumulative_logprob")[:1] or (math.nan,)
    if not logprob <= 1e-3:
        raise Broken(f"cumulative_logprob is {logprob}, expected at most 0")
    rest = math.log(max(-math.expm1(min(logprob, -1e-9)), SMALLEST))
    bound = min(rest, logprob)
    values = tuple(logprob if i == matches[0] else bound for i in range(len(answers)))
    return LabelScores(values, is_bounded=True)
