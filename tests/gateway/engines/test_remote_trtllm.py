"""What TensorRT-LLM's servers do and do not do, by their sources: over HTTP and gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.probe import Probe, probes_json
from tests.batteries.engines import CASES, PATIENCE_S, TOKENIZER, Rig, Stop, remote
from tests.gateway.engines.fake_model import FakeModel

MINUTE_US = 60_000_000
OK = engine_pb2.RESULT_STATUS_OK


async def ask(rig: Rig, bundle: str, text: str = "a page") -> engine_pb2.Result:
    _, future = rig.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)
    return await future


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def test_gateways_that_share_a_server_never_give_two_requests_the_same_id(tmp_path: Path) -> None:
    """The server finds a request by its id alone: one that leaves would abort the other's."""

    async def story() -> None:
        async with remote("trtllm-grpc", tmp_path / "one") as one:

            async def same(model: FakeModel, port: int) -> tuple[int, Stop]:
                async def stays() -> None:
                    return

                return one.port, stays

            case = replace(CASES["trtllm-grpc"], start=same)
            async with remote("trtllm-grpc", tmp_path / "two", case=case) as two:
                for rig in (one, two):
                    plain = rig.bundle()
                    await rig.link.load(plain)
                    raw = await ask(rig, plain)
                    probes = probes_json([Probe("a page", tuple(raw.probabilities), 0.001)])
                    await rig.link.load(rig.bundle({**TOKENIZER, "probes.json": probes}))
                    _ = [chunk async for chunk in rig.link.generate(plain, Given.of_text("a page"), MINUTE_US, 5)]
        ids = [request.request_id for request in one.model.requests]  # type: ignore[attr-defined]
        assert len(ids) >= 6
        assert len(set(ids)) == len(ids)

    run(story)
