"""SGLang's scheduler over gRPC: exactly the label tokens' log-probabilities, per-request LoRA adapters."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc

from gateway.domain.capabilities import CONSTRAINTS, EXACT, Capabilities, Constraint, Health
from gateway.engines.label_scores import from_logprobs
from gateway.engines.ports import (
    Broken,
    Busy,
    Endpoint,
    EngineProblem,
    GenerateJob,
    Identity,
    LabelScores,
    Piece,
    ScoreJob,
    Served,
    Unreachable,
)
from gateway.engines.remote_grpc import UNARY_TIMEOUT_S, Channels, ask, problem_of
from gateway.engines.serving import with_adapter
from gateway.engines.text_pieces import TextPieces
from gateway.serving.ports import BundleRefused
from protos.contract.fields import FieldInvalid, Reader

LOAD_TIMEOUT_S = 30.0
# A request that found no room, or lost it, is told with the status of a server that is away.
_NO_ROOM = re.compile(r"queue is full|timeout reached|higher priority|retry later", re.IGNORECASE)


class SglangEngine:
    """One SGLang server in gRPC mode."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._channels = Channels(endpoint)
        self._stubs = self._channels.stubs(pb_grpc.SglangSchedulerStub)
        self._adapters: dict[str, str] = {}
        self._aborts: set[asyncio.Task[None]] = set()

    async def health(self) -> Health:
        """Ask the server."""
        try:
            answer = await ask(
                self._stubs.next().HealthCheck(pb.HealthCheckRequest(), **self._options(UNARY_TIMEOUT_S))
            )
        except EngineProblem as error:
            return Health(False, str(error))
        return Health(answer.healthy, "" if answer.healthy else f"the server says {answer.message[:120]!r}")

    async def load(self, served: Served) -> Capabilities:
        """Compare the server's model with the bundle's tokens and load the bundle's adapter there."""
        try:
            read = Reader(served.settings, "manifest.engine")
            read.text("backend")
            model = read.maybe_text("model") or ""
            adapter = read.object("adapter", {})
            read.object("verbalizers", {})
            read.done()
            name, path = _adapter(adapter)
        except FieldInvalid as error:
            raise BundleRefused(str(error)) from error
        if not served.answer_ids:
            raise BundleRefused("tokenizer.json is missing, expected it: ids go by wire")
        info = await ask(self._stubs.next().GetModelInfo(pb.GetModelInfoRequest(), **self._options(UNARY_TIMEOUT_S)))
        known = {info.model_path, info.served_model_name} - {""}
        if model and known and model not in known:
            raise BundleRefused(f"the server has model {sorted(known)}, expected {model!r}")
        # max_context_length is what its cache holds, vocab_size the same for every model; this limit itself is refused.
        longest = info.max_req_input_len - 1
        if 0 < longest < served.task.max_tokens:
            raise BundleRefused(f"the server reads {longest} tokens, expected {served.task.max_tokens}")
        if name:
            self._adapters[served.digest] = name  # also of a load that is taken back, to be forgotten
            try:
                self._adapters[served.digest] = await self._load_adapter(name, path)
            except BundleRefused:
                del self._adapters[served.digest]
                raise
        return Capabilities(
            label_logprobs=EXACT,
            lora="per_request",
            prefix_cache=True,
            constraints=CONSTRAINTS,
            can_generate=True,
            vocabulary_mass=True,
        )

    async def _load_adapter(self, name: str, path: str) -> str:
        stub = self._stubs.next()
        try:
            listed = await ask(
                stub.ListLoadedLoRAAdapters(pb.ListLoadedLoRAAdaptersRequest(), **self._options(UNARY_TIMEOUT_S))
            )
        except Broken as error:
            if not str(error).startswith(grpc.StatusCode.UNIMPLEMENTED.name):
                raise
            raise BundleRefused(
                "the server loads no adapters over gRPC, expected none in manifest.engine, or its HTTP interface"
            ) from error
        for adapter in listed.loaded_adapters:
            if adapter.lora_name == name and (not path or adapter.lora_path == path):
                return str(adapter.lora_id or name)
        if not path:
            raise BundleRefused(f"adapter {name!r} is not loaded at the server, expected it or adapter.path")
        request = pb.LoadLoRAAdapterRequest(lora_name=name, lora_path=path, lora_id=name)
        answer = await ask(stub.LoadLoRAAdapter(request, **self._options(LOAD_TIMEOUT_S)))
        if not answer.success:
            raise BundleRefused(f"the server refuses adapter {name!r}: {answer.message[:160]}")
        return name

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Say nothing: it is seen when an answer fails."""
        return {}

    async def identify(self, served: Served) -> Identity:
        """Ask for the names and versions of weights and server."""
        stub, options = self._stubs.next(), self._options(UNARY_TIMEOUT_S)
        model = await ask(stub.GetModelInfo(pb.GetModelInfoRequest(), **options))
        server = await ask(stub.GetServerInfo(pb.GetServerInfoRequest(), **options))
        name = model.served_model_name or model.model_path
        adapter = served.settings.get("adapter", {})
        name = with_adapter(name, adapter.get("name", ""), adapter.get("path", ""))
        return Identity(name, model.weight_version, "sglang", server.sglang_version)

    async def unload(self, served: Served) -> None:
        """Have the server forget the bundle's adapter."""
        adapter = self._adapters.pop(served.digest, None)
        if adapter is not None and adapter not in self._adapters.values():
            request = pb.UnloadLoRAAdapterRequest(lora_name=adapter, lora_id=adapter)
            await ask(self._stubs.next().UnloadLoRAAdapter(request, **self._options(UNARY_TIMEOUT_S)))

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Ask for the label tokens' log-probabilities at the place after the prompt."""
        request = self._request(job.id, job.served, job.text, job.token_ids, max_tokens=1)
        request.return_logprob = True
        request.logprob_start_len = -1  # of no prompt token
        request.token_ids_logprob.extend(job.served.answer_ids)
        complete = None
        with self._aborting(job.id):
            try:
                async for answer in self._stubs.next().Generate(request, **self._options(timeout_s)):
                    if answer.HasField("complete"):
                        complete = answer.complete
            except grpc.RpcError as error:
                raise _problem_of(error) from error
        if complete is None:
            raise Broken("the stream ended without a complete answer")
        places = complete.output_logprobs.token_ids_logprobs
        if len(places) != 1 or len(places[0].values) != len(places[0].token_ids):
            raise Broken(f"{len(places)} places have label log-probabilities, expected 1 with a value an id")
        found = dict(zip(places[0].token_ids, places[0].values, strict=True))
        missing = [i for i in job.served.answer_ids if i not in found]
        if missing:
            raise Broken(f"label tokens {missing} have no log-probability")
        return from_logprobs([found[i] for i in job.served.answer_ids], complete.prompt_tokens)

    async def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Stream text; what it generates comes as ids and is written here."""
        if job.served.decode is None:
            raise Broken("tokenizer.json is missing, expected it to write what is generated")
        request = self._request(job.id, job.served, job.text, job.token_ids, max_tokens=job.max_tokens)
        request.stream = True
        _constrain(request.sampling_params, job.constraint)
        pieces = TextPieces(job.served.decode)
        call = self._stubs.next().Generate(request, **self._options(timeout_s))
        with self._aborting(job.id):
            try:
                async for answer in call:
                    if answer.HasField("chunk"):
                        for piece in pieces.add(answer.chunk.token_ids):
                            yield piece
            except grpc.RpcError as error:
                raise _problem_of(error) from error
            finally:
                if not call.done():
                    call.cancel()
        for piece in pieces.end():
            yield piece

    @contextlib.contextmanager
    def _aborting(self, id: str) -> Any:
        """Say that nobody waits any more: the scheduler's queue is behind another process than the call."""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            task = asyncio.ensure_future(self._abort(id))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)
            raise

    async def _abort(self, id: str) -> None:
        request = pb.AbortRequest(request_id=id, reason="nobody waits for it")
        with contextlib.suppress(EngineProblem):
            await ask(self._stubs.next().Abort(request, **self._options(UNARY_TIMEOUT_S)))

    async def close(self) -> None:
        """Close every connection."""
        for task in self._aborts:
            task.cancel()
        await self._channels.close()

    def _request(
        self, id: str, served: Served, text: str, ids: tuple[int, ...], *, max_tokens: int
    ) -> pb.GenerateRequest:
        request = pb.GenerateRequest(request_id=id, lora_id=self._adapters.get(served.digest, ""))
        request.tokenized.original_text = text
        request.tokenized.input_ids.extend(ids)
        # Plain scalars without a "not set": each must say what an ordinary request means.
        sampling = request.sampling_params
        sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty = 0.0, 1.0, -1, 1.0
        sampling.n, sampling.max_new_tokens = 1, max_tokens
        sampling.skip_special_tokens = sampling.spaces_between_special_tokens = True
        return request

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"timeout": timeout_s, "metadata": self._channels.metadata}


def _problem_of(error: grpc.RpcError) -> EngineProblem:
    found = problem_of(error)
    return Busy(str(found)) if isinstance(found, Unreachable) and _NO_ROOM.search(str(found)) else found


def _adapter(value: dict[str, Any]) -> tuple[str, str]:
    if not value:
        return "", ""
    read = Reader(value, "manifest.engine.adapter")
    found = read.text("name"), read.maybe_text("path") or ""
    read.done()
    return found


def _constrain(sampling: pb.SamplingParams, constraint: Constraint | None) -> None:
    if constraint is None:
        return
    if constraint.kind == "json_schema":
        sampling.json_schema = constraint.pattern
    elif constraint.kind == "regex":
        sampling.regex = constraint.pattern
    else:
        sampling.regex = "(" + "|".join(map(re.escape, constraint.choices)) + ")"
