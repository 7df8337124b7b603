"""What SGLang tells of itself and does not do, as version 0.5.23 was heard to."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from smg_grpc_proto import sglang_scheduler_pb2_grpc

from gateway.serving.ports import BundleRefused
from protos import engine_pb2
from protos.contract.given import Given
from tests.batteries.engines import CASES, PATIENCE_S, Stop, remote
from tests.gateway.engines.fake_grpc import LONGEST, FakeSglang, serve
from tests.gateway.engines.fake_model import FakeModel

MINUTE_US = 60_000_000


async def without_adapters(model: FakeModel, port: int) -> tuple[int, Stop]:
    servicer = FakeSglang(model, loads_adapters=False)
    server, found = await serve(sglang_scheduler_pb2_grpc.add_SglangSchedulerServicer_to_server, servicer, port)
    return found, lambda: server.stop(0)


def test_the_longest_prompt_is_what_the_scheduler_takes_and_not_what_its_cache_holds(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("sglang-grpc", tmp_path) as rig:
            fits = replace(rig.case.task, max_tokens=LONGEST)
            await rig.link.load(rig.bundle(task=fits))
            with pytest.raises(BundleRefused, match=f"reads {LONGEST} tokens, expected {LONGEST + 1}"):
                await rig.link.load(rig.bundle(task=replace(fits, max_tokens=LONGEST + 1)))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_a_scheduler_that_loads_no_adapters_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        case = replace(CASES["sglang-grpc"], start=without_adapters)
        async with remote("sglang-grpc", tmp_path, case=case) as rig:
            await rig.link.load(rig.bundle())
            with pytest.raises(BundleRefused, match="loads no adapters over gRPC"):
                await rig.link.load(rig.bundle(adapter={"name": "one", "path": "/models/adapter"}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", ["sglang-grpc"])
def test_a_full_queue_is_no_server_that_is_away(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            bundle = rig.bundle()
            await rig.link.load(bundle)
            text = Given.of_text("please be busy")
            result = await rig.link.submit(bundle, text, MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]
            assert result.status == engine_pb2.RESULT_STATUS_OVERLOADED and "queue is full" in result.message

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
