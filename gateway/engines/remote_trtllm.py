"""TensorRT-LLM behind ``trtllm-serve --grpc``: token ids in, the best few log-probabilities out.

What the server cannot do is not asked of it: it answers no logits, fails on every LoRA adapter, and
reports an error of the engine inside a stream that ends with OK. What it does not say is tried when a bundle is
loaded: the lengths it tells are settings by which no prompt is checked, and without a ``guided_decoding_backend``
it takes no notice of a guide.
"""

import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import grpc
from smg_grpc_proto import trtllm_service_pb2 as pb
from smg_grpc_proto import trtllm_service_pb2_grpc as pb_grpc

from gateway.domain.capabilities import TOPK, Capabilities, Constraint, Health
from gateway.engines.label_scores import from_best
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
from gateway.engines.remote_grpc import UNARY_TIMEOUT_S, Channels, ask, problem_of
from gateway.engines.text_pieces import TextPieces
from gateway.engines.trial import MAX_WORD_TOKENS, ONLY_THE_WORD, WORD, longest_prompt
from gateway.serving.ports import BundleRefused
from protos.contract.fields import FieldInvalid, Reader

HEALTHY = "OK"
LOAD_TIMEOUT_S = 30.0
MAX_TOP = 1000
DEFAULT_TOP = 20
_GUIDES = {"json_schema": "GUIDE_TYPE_JSON_SCHEMA", "regex": "GUIDE_TYPE_REGEX"}


class TrtllmEngine:
    """One ``trtllm-serve --grpc``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._channels = Channels(endpoint)
        self._stubs = self._channels.stubs(pb_grpc.TrtllmServiceStub)
        self._top: dict[str, int] = {}

    async def health(self) -> Health:
        """Ask the server; it says what is wrong in a call that is itself OK."""
        try:
            answer = await ask(
                self._stubs.next().HealthCheck(pb.HealthCheckRequest(), **self._options(UNARY_TIMEOUT_S))
            )
        except EngineProblem as error:
            return Health(False, str(error))
        is_up = answer.status == HEALTHY
        return Health(is_up, "" if is_up else f"the server says {answer.status[:120]!r}")

    async def load(self, served: Served) -> Capabilities:
        """Compare the server's model with the bundle's tokens."""
        try:
            read = Reader(served.settings, "manifest.engine")
            read.text("backend")
            model = read.maybe_text("model") or ""
            top = read.integer("top_logprobs", len(served.task.labels), MAX_TOP, DEFAULT_TOP)
            read.object("verbalizers", {})
            read.done()
        except FieldInvalid as error:
            raise BundleRefused(str(error)) from error
        if not served.answer_ids:
            raise BundleRefused("tokenizer.json is missing, expected it: ids go by wire")
        info = await ask(self._stubs.next().GetModelInfo(pb.GetModelInfoRequest(), **self._options(UNARY_TIMEOUT_S)))
        if model and info.model_id and info.model_id != model:
            raise BundleRefused(f"the server has model {info.model_id!r}, expected {model!r}")
        # Its vocab_size is the tokenizer's without added tokens, so only ordinary label tokens can be held to it.
        highest = max(served.answer_ids)
        if 0 < info.vocab_size <= highest:
            raise BundleRefused(f"label token {highest} is outside the server's vocabulary of {info.vocab_size}")
        await self._check_answers(served, top)
        keeps_guides = await self._keeps_guides(served)
        self._top[served.digest] = top
        return Capabilities(
            label_logprobs=TOPK,
            prefix_cache=True,
            constraints=tuple(_GUIDES) if keeps_guides else (),
            can_generate=True,
            vocabulary_mass=True,
        )

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Say nothing: the server has one model."""
        return {}

    async def _check_answers(self, served: Served, top: int) -> None:
        """Ask for the longest prompt and as many log-probabilities as labels need, though the first may take long."""
        request = _request(uuid.uuid4().hex, "", longest_prompt(served), max_tokens=1)
        request.output_config.logprobs = top
        try:
            await self._complete(request, LOAD_TIMEOUT_S)
        except (InputRefused, Broken) as error:
            length = served.task.max_tokens
            raise BundleRefused(f"the server does not answer a prompt of {length} tokens: {error}") from error

    async def _keeps_guides(self, served: Served) -> bool:
        if served.decode is None:
            return False
        request = _request(uuid.uuid4().hex, "", served.answer_ids[:1], max_tokens=MAX_WORD_TOKENS)
        _guide(request, ONLY_THE_WORD)
        try:
            complete = await self._complete(request, LOAD_TIMEOUT_S)
        except (InputRefused, Broken):
            return False
        return served.decode(complete.output_token_ids) == WORD

    async def identify(self, served: Served) -> Identity:
        """Ask for the model's name and the server's version; it tells no version of the model."""
        stub, options = self._stubs.next(), self._options(UNARY_TIMEOUT_S)
        model = await ask(stub.GetModelInfo(pb.GetModelInfoRequest(), **options))
        server = await ask(stub.GetServerInfo(pb.GetServerInfoRequest(), **options))
        return Identity(model.model_id, "", server.backend, server.version)

    async def unload(self, served: Served) -> None:
        """Forget the bundle; the server has one model and keeps it."""
        self._top.pop(served.digest, None)

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Generate one token greedily and read the best few log-probabilities at its place."""
        request = _request(job.id, job.text, job.token_ids, max_tokens=1)
        request.output_config.logprobs = self._top[job.served.digest]
        complete = await self._complete(request, timeout_s)
        if len(complete.logprobs) != 1:
            raise Broken(f"{len(complete.logprobs)} places have log-probabilities, expected 1")
        # Not the token's own: a 0 there means that nothing is known of it. Where it is known, it is among these.
        best = {top.token_id: top.logprob for top in complete.logprobs[0].top_logprobs}
        if not best:
            raise Broken("log-probabilities of the best few are missing")
        return from_best(job.served.answer_ids, best, complete.prompt_tokens)

    async def _complete(self, request: pb.GenerateRequest, timeout_s: float) -> pb.GenerateComplete:
        complete = None
        try:
            async for answer in self._stubs.next().Generate(request, **self._options(timeout_s)):
                if answer.HasField("complete"):
                    complete = answer.complete
        except grpc.RpcError as error:
            raise problem_of(error) from error
        if complete is None:
            raise Broken("the stream ended without a complete answer")
        _check_finish(complete)
        return complete

    async def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Stream text; what it generates comes as ids and is written here."""
        request = _request(job.id, job.text, job.token_ids, max_tokens=job.max_tokens)
        request.streaming = True
        _guide(request, job.constraint)
        if job.served.decode is None:
            raise Broken("tokenizer.json is missing, expected it to write what is generated")
        pieces = TextPieces(job.served.decode)
        call = self._stubs.next().Generate(request, **self._options(timeout_s))
        try:
            async for answer in call:
                if answer.HasField("chunk"):
                    for piece in pieces.add(answer.chunk.token_ids):
                        yield piece
                elif answer.HasField("complete"):
                    _check_finish(answer.complete)
        except grpc.RpcError as error:
            raise problem_of(error) from error
        finally:
            if not call.done():
                call.cancel()
        for piece in pieces.end():
            yield piece

    async def close(self) -> None:
        """Close every connection."""
        await self._channels.close()

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"timeout": timeout_s, "metadata": self._channels.metadata}


def _request(id: str, text: str, ids: Sequence[int], *, max_tokens: int) -> pb.GenerateRequest:
    request = pb.GenerateRequest(request_id=id, max_tokens=max_tokens)
    request.tokenized.original_text = text
    request.tokenized.input_token_ids.extend(ids)
    request.sampling_config.beam_width = 1
    request.sampling_config.num_return_sequences = 1
    request.sampling_config.temperature = 0.0  # unset is 1.0 there
    request.output_config.exclude_input_from_output = True
    return request


def _guide(request: pb.GenerateRequest, constraint: Constraint | None) -> None:
    if constraint is None:
        return
    if constraint.kind not in _GUIDES or not constraint.pattern:  # an empty guide is ignored there
        raise Broken(f"constraint {constraint.kind!r} is not one trtllm-serve keeps")
    request.guided_decoding.guide_type = getattr(pb.GuidedDecodingParams, _GUIDES[constraint.kind])
    request.guided_decoding.guide = constraint.pattern


def _check_finish(complete: pb.GenerateComplete) -> None:
    if complete.finish_reason not in ("stop", "length"):  # error, cancelled, timeout, or nothing
        raise Broken(f"finish_reason is {complete.finish_reason!r}, expected stop or length")
