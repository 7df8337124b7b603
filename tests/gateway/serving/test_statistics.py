"""What is counted of a specialist is what its callers saw."""

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from protos import engine_pb2, oip_pb2, oip_pb2_grpc
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import first_split, run, start
from tests.tasks import TASK


async def told(deployment: Deployment) -> oip_pb2.ModelStatistics:
    async with deployment.channel() as channel:
        stub = oip_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = await stub.ModelStatistics(oip_pb2.ModelStatisticsRequest(name="brand"))
    return answer.model_stats[0]


def test_native_decisions_are_counted_and_refused_inputs_are_not(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        for _ in range(3):
            await deployment.decide()
        await deployment.decide(test=True)
        with pytest.raises(grpc.aio.AioRpcError):
            await deployment.decide(" ")
        stats = (await told(deployment)).inference_stats
        assert (stats.success.count, stats.fail.count, stats.compute_infer.count) == (4, 0, 4)

    run(tmp_path, story)


def test_a_fallback_is_a_success_without_an_engine(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        split = await start(deployment)
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_ERROR)
        assert (await deployment.decide()).fallback.used
        stats = (await told(deployment)).inference_stats
        assert (stats.success.count, stats.fail.count, stats.compute_infer.count) == (1, 0, 0)

    run(tmp_path, story)


def test_an_engine_error_and_a_missed_deadline_are_failures(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.start_worker()
        await deployment.start_gateway()
        task = replace(TASK, on_refusal="error", deadline_us=20_000_000)
        split = first_split(deployment.bundle(task))
        deployment.control.approve(split, split.primary)
        assert (await deployment.control.publish(split)).applied
        await deployment.until_serving()
        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_ERROR)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await deployment.decide()
        assert failed.value.code() is grpc.StatusCode.INTERNAL

        await deployment.inject(split.primary, engine_pb2.FAULT_KIND_DELAY, delay_us=10_000_000)
        async with asyncio.timeout(PATIENCE_S):
            while (stats := await told(deployment)).inference_stats.fail.count < 2:
                with pytest.raises(grpc.aio.AioRpcError):  # one that ended before it arrived is simply made again
                    await deployment.decide(timeout=0.2)
        assert (stats.inference_count, stats.inference_stats.success.count) == (0, 0)

    run(tmp_path, story)
