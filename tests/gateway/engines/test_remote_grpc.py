"""A message too large for somebody is no sign of a busy server: it is refused, for this input alone."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.engines.ports import Broken, Busy, EngineProblem, InputRefused
from gateway.engines.remote_grpc import ask
from protos import engine_pb2, oip_pb2, oip_pb2_grpc
from protos.contract.given import Given
from tests.batteries.engines import CASES, PATIENCE_S, Rig, Stop, remote
from tests.gateway.engines.fake_grpc import serve
from tests.gateway.engines.fake_model import FakeModel
from tests.gateway.engines.fake_oip import FakeOip

MINUTE_US = 60_000_000
LIMIT = 1000  # bytes of a message that the server takes


async def _small(model: FakeModel, port: int) -> tuple[int, Stop]:
    servicer, limit = FakeOip(model, "generic"), ("grpc.max_receive_message_length", LIMIT)
    server, found = await serve(oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicer, port, limit)
    return found, lambda: server.stop(0)


async def _results(rig: Rig, *texts: str) -> list[engine_pb2.Result]:
    bundle = rig.bundle({})  # without a tokenizer nobody here counts tokens
    await rig.link.load(bundle)
    asked = [rig.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE) for text in texts]
    return list(await asyncio.gather(*(future for _, future in asked)))


@pytest.mark.parametrize("name", ["oip generic", "oip generic gathered"])
def test_an_input_too_large_for_the_server_is_refused_and_those_beside_it_are_answered(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with remote(name, tmp_path, case=replace(CASES[name], start=_small)) as rig:
            short = [f"{i} {'a page ' * 20}" for i in range(12)]  # together more than the server takes
            *answered, refused = await _results(rig, *short, "a page " * 200)
            assert {result.status for result in answered} == {engine_pb2.RESULT_STATUS_OK}
            assert refused.status == engine_pb2.RESULT_STATUS_BAD_INPUT
            assert "message larger than max" in refused.message and rig.link.health().is_up

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


SAID: dict[str, tuple[str, type[EngineProblem]]] = {
    "core": ("SERVER: Received message larger than max (5000 vs. 1000)", InputRefused),
    "core, older": ("Received message larger than max (5000 vs. 1000)", InputRefused),
    "core, our request": ("CLIENT: Sent message larger than max (5000 vs. 1000)", InputRefused),
    "core, our answer": ("Stream removed (CLIENT: Received message larger than max (5000 vs. 1000))", Broken),
    "go": ("grpc: received message larger than max (5000 vs. 1000)", InputRefused),
    "go, unpacked": ("grpc: received message after decompression larger than max 1000", InputRefused),
    "java": ("gRPC message exceeds maximum size 1000: 5000", InputRefused),
    ".net": ("Received message exceeds the maximum configured message size.", InputRefused),
    "full": ("the queue is full", Busy),
    "quota": ("quota exceeded: at most 100 messages a second", Busy),
    "memory": ("CUDA out of memory", Busy),
}


class Says(oip_pb2_grpc.GRPCInferenceServiceServicer):
    """Is exhausted, in words of somebody's."""

    def __init__(self, words: str) -> None:
        self._words = words

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self._words)


@pytest.mark.parametrize("case", SAID)
def test_what_is_exhausted_is_told_apart_by_what_servers_say(case: str) -> None:
    words, kind = SAID[case]

    async def story() -> None:
        server, port = await serve(oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, Says(words))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = oip_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(EngineProblem) as caught:
                await ask(stub.ServerReady(oip_pb2.ServerReadyRequest()))
        await server.stop(0)
        assert type(caught.value) is kind and words in str(caught.value)

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
