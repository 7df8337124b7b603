"""Servers on the real stubs of TensorRT-LLM's and SGLang's gRPC, with their recorded behaviour."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from smg_grpc_proto import sglang_scheduler_pb2, sglang_scheduler_pb2_grpc, trtllm_service_pb2, trtllm_service_pb2_grpc

from tests.gateway.engines.fake_model import ANSWER, MODEL, Busy, Failed, FakeModel

LONGEST = 512  # tokens that a server takes
MAX_TOP = 100  # log-probabilities that TensorRT-LLM tells of one token; 20 from May to July 2026
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


async def _begin(model: FakeModel, id: str, text: str, context: Any, full: grpc.StatusCode = FULL) -> None:
    try:
        await model.begin(id, text)
    except Failed as error:
        await context.abort(grpc.StatusCode.INTERNAL, str(error))
    except Busy as error:
        await context.abort(full, str(error))


class FakeTrtllm(trtllm_service_pb2_grpc.TrtllmServiceServicer):
    """``trtllm-serve --grpc``: best few log-probabilities; no logits; LoRA fails; errors inside an OK stream.

    ``guides`` says whether it was started with a ``guided_decoding_backend``: without one it takes no notice of guides.
    """

    pb = trtllm_service_pb2

    def __init__(self, model: FakeModel, vocabulary: int | None = None, *, guides: bool = True) -> None:
        self.model = model
        self._vocabulary = vocabulary or model.vocabulary
        self._guides = guides

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.HealthCheckResponse(status="OK" if self.model.is_up else "the executor is gone")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        # Of lengths it tells a setting, 1024 unless given, by which no prompt is checked.
        return self.pb.GetModelInfoResponse(
            model_id=MODEL, max_input_len=1024, max_seq_len=1024, vocab_size=self._vocabulary
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.GetServerInfoResponse(version="1.2", backend="tensorrt-llm")

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.model.abort(request.request_id)
        return self.pb.AbortResponse(success=True)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.model.requests.append(request)
        await self._check(request, context)
        text = self.model.decode(list(request.tokenized.input_token_ids))
        await _begin(self.model, request.request_id, text, context)
        guide = request.guided_decoding.guide if self._guides else ""
        if "please end badly" in text or "please time out" in text:
            reason = "error" if "badly" in text else ""
            complete = self.pb.GenerateComplete(finish_reason=reason)
            yield self.pb.GenerateResponse(request_id=request.request_id, complete=complete)
            return
        if request.streaming:
            async for answer in self._stream(request, guide):
                yield answer
            return
        if request.max_tokens > 1:
            said = self.model.encode(guide or ANSWER)[: request.max_tokens]
            complete = self.pb.GenerateComplete(output_token_ids=said, finish_reason="stop")
            yield self.pb.GenerateResponse(request_id=request.request_id, complete=complete)
            return
        yield self.pb.GenerateResponse(request_id=request.request_id, complete=self._scored(request, text))

    async def _check(self, request: Any, context: Any) -> None:
        if not request.HasField("tokenized"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing tokenized input")
        if request.HasField("lora_config"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "lora_path () does not exist.")
        if not request.sampling_config.HasField("temperature"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this fake wants a greedy request")
        if request.output_config.logprobs > MAX_TOP:
            said = f"logprobs must be less than or equal to {MAX_TOP}, got {request.output_config.logprobs}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, said)
        if (length := len(request.tokenized.input_token_ids)) > LONGEST:
            said = (
                f"The sum of prompt length ({length}.0), query length (0) should not exceed max_num_tokens ({LONGEST})"
            )
            await context.abort(grpc.StatusCode.INTERNAL, said)

    def _scored(self, request: Any, text: str) -> Any:
        best = self.model.best(text, request.output_config.logprobs)
        chosen = next(iter(best))
        complete = self.pb.GenerateComplete(
            output_token_ids=[chosen],
            finish_reason="length",
            prompt_tokens=len(request.tokenized.input_token_ids),
            completion_tokens=1,
        )
        place = complete.logprobs.add(token_id=chosen, logprob=best[chosen])
        for id, logprob in best.items():
            place.top_logprobs.add(token_id=id, logprob=logprob)
        if "please sample another" in text:  # a token of which nothing is told is told with 0
            place.token_id, place.logprob = max(set(range(self.model.vocabulary)) - set(best)), 0.0
        if "please be simple" in text:
            del place.top_logprobs[:]
        return complete

    async def _stream(self, request: Any, guide: str) -> AsyncIterator[Any]:
        for id in self.model.encode(_said(guide))[: request.max_tokens]:
            yield self.pb.GenerateResponse(
                request_id=request.request_id, chunk=self.pb.GenerateStreamChunk(token_ids=[id])
            )
        complete = self.pb.GenerateComplete(finish_reason="stop")
        yield self.pb.GenerateResponse(request_id=request.request_id, complete=complete)


class FakeSglang(sglang_scheduler_pb2_grpc.SglangSchedulerServicer):
    """SGLang's scheduler: exactly the log-probabilities of the ids asked for, adapters by id.

    smg-grpc-servicer 0.14, which is SGLang's own front, loads no adapters and takes no notice of a request's.
    """

    pb = sglang_scheduler_pb2

    def __init__(self, model: FakeModel, *, loads_adapters: bool = True) -> None:
        self.model = model
        self.loads_adapters = loads_adapters
        self.adapters: dict[str, str] = {}

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.HealthCheckResponse(healthy=self.model.is_up, message="" if self.model.is_up else "not ready")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.GetModelInfoResponse(
            model_path=MODEL,
            served_model_name=MODEL,
            weight_version="3",
            vocab_size=256,  # the same number whatever the model, and smaller than some
            max_context_length=65_536,  # what its cache holds
            max_req_input_len=LONGEST + 1,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.GetServerInfoResponse(sglang_version="1.2")

    async def _check_loads_adapters(self, context: Any) -> None:
        if not self.loads_adapters:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")

    async def ListLoadedLoRAAdapters(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._check_loads_adapters(context)
        answer = self.pb.ListLoadedLoRAAdaptersResponse()
        for name, path in self.adapters.items():
            answer.loaded_adapters.add(lora_id=name, lora_name=name, lora_path=path)
        return answer

    async def LoadLoRAAdapter(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._check_loads_adapters(context)
        if "missing" in request.lora_path:
            return self.pb.LoadLoRAAdapterResponse(success=False, message=f"no such path {request.lora_path}")
        self.adapters[request.lora_name] = request.lora_path
        if "slow" in request.lora_path:
            await self.model.begin("adapter", "please hang")
        return self.pb.LoadLoRAAdapterResponse(success=True)

    async def UnloadLoRAAdapter(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.adapters.pop(request.lora_name, None)
        self.model._note()
        return self.pb.UnloadLoRAAdapterResponse(success=True)

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.model.abort(request.request_id)
        return self.pb.AbortResponse(success=True)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.model.requests.append(request)
        text = self.model.decode(list(request.tokenized.input_ids))
        if request.lora_id and self.loads_adapters:
            if request.lora_id not in self.adapters:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no adapter {request.lora_id!r}")
            text = f"{request.lora_id}:{text}"
        await _begin(self.model, request.request_id, text, context, grpc.StatusCode.UNAVAILABLE)
        if request.stream:
            sampling = request.sampling_params
            for id in self.model.encode(_said(sampling.regex or sampling.json_schema))[: sampling.max_new_tokens]:
                yield self.pb.GenerateResponse(chunk=self.pb.GenerateStreamChunk(token_ids=[id]))
            yield self.pb.GenerateResponse(complete=self.pb.GenerateComplete(finish_reason="stop"))
            return
        complete = self.pb.GenerateComplete(finish_reason="length", prompt_tokens=len(request.tokenized.input_ids))
        ids = list(request.token_ids_logprob)
        row = self.model.logprobs(text)
        complete.output_logprobs.token_ids_logprobs.add(values=[row[i] for i in ids], token_ids=ids)
        yield self.pb.GenerateResponse(complete=complete)


def _said(constraint: str) -> str:
    """A constrained answer shows what it was constrained to."""
    return f" kept {constraint}" if constraint else ANSWER


async def serve(add: Any, servicer: Any, port: int = 0, *options: tuple[str, int]) -> tuple[grpc.aio.Server, int]:
    """Start a server on a free port of this machine, or on a given one again."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    add(servicer, server)
    found = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.sleep(0)
    return server, found
