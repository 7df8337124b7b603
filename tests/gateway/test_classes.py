"""What callers of each service class are told when an engine has no room."""

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio

from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from protos.contract.plan import Split
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import run
from tests.tasks import TASK

LONG = replace(TASK, on_refusal="error", deadline_us=30_000_000)


async def serve(deployment: Deployment) -> dict[str, str]:
    """Serve one specialist of each class; returns their bundles by class."""
    bundles, splits = {}, []
    for name in ("batch", "hard", "soft"):
        bundles[name] = deployment.bundle(replace(LONG, name=name, service_class=name), latency_us=3_000)
        splits.append(Split(name, bundles[name], None, None, 0, 0, 0, 0, "first"))
        deployment.control.approve(splits[-1], bundles[name])
    acknowledgement = await deployment.control.publish(*splits)
    assert acknowledgement.applied, acknowledgement.message
    await deployment.until_serving()
    return bundles


def test_hard_and_batch_calls_are_refused_at_once_and_soft_ones_wait(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        deployment.settings |= {"engine_max_in_flight": 1, "soft_queue": 8}
        deployment.start_worker()
        await deployment.start_gateway()
        bundles = await serve(deployment)
        async with deployment.channel() as channel, asyncio.timeout(PATIENCE_S):
            stub = decide_pb2_grpc.DecisionServiceStub(channel)

            def ask(specialist: str) -> "asyncio.Task[decide_pb2.DecideResponse]":
                request = decide_pb2.DecideRequest(specialist=specialist, input=decide_pb2.Input(text="x"))

                async def answer() -> decide_pb2.DecideResponse:
                    return await stub.Decide(request)  # type: ignore[no-any-return]

                return asyncio.create_task(answer())

            for name, pushbacks in (("hard", {"-1"}), ("batch", {str(ms) for ms in range(50, 501)})):
                await deployment.inject(bundles[name], engine_pb2.FAULT_KIND_DELAY, delay_us=20_000_000)
                calls = {ask(name), ask(name)}
                done, held = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                refused = done.pop().exception()
                assert isinstance(refused, grpc.aio.AioRpcError)
                assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert dict(refused.trailing_metadata() or ())["grpc-retry-pushback-ms"] in pushbacks
                for call in held:
                    call.cancel()
            answers = await asyncio.gather(*(ask("soft") for _ in range(3)))
            assert not any(answer.fallback.used for answer in answers)

    run(tmp_path, story)
