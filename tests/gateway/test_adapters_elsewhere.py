"""Primary and canary as two adapters on one base at a server elsewhere that others change behind the gateway's back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from protos import decide_pb2
from protos.contract.plan import Split
from tests.batteries.engines import TOKEN_TASK, TOKENIZER
from tests.gateway.deployment import Deployment
from tests.gateway.engines.fake_model import MODEL, FakeModel
from tests.gateway.engines.fake_openai import FakeOpenAi
from tests.gateway.stories import first_split, run
from tests.gateway.test_remote_engines import publish

PATIENCE_S = 30.0
NEWER = "/models/newer"


def bundle(deployment: Deployment, adapter: str) -> str:
    return deployment.store.add(
        task=replace(TOKEN_TASK, deadline_us=2_000_000),
        engine={
            "backend": "openai-http",
            "preset": "vllm",
            "model": MODEL,
            "adapter": {"name": adapter, "path": f"/models/{adapter}"},
        },
        contents=TOKENIZER,
        base={},
        lineage={"author": "trainer"},
    ).digest


async def until(deployment: Deployment, arm: str, *, is_answered: bool) -> None:
    """Ask until an arm is answered by its adapter, or gets a fallback because that is away."""
    async with asyncio.timeout(PATIENCE_S):
        while (await deployment.decide("a page", routing_key=arm)).fallback.used == is_answered:
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def canary(deployment: Deployment, canary_bp: int) -> AsyncIterator[tuple[FakeOpenAi, Split]]:
    server = FakeOpenAi(FakeModel(), "vllm")
    port = await server.start()
    deployment.settings["engines"] = [
        {"name": "far", "kind": "openai-http", "address": f"http://127.0.0.1:{port}", "models": [MODEL]}
    ]
    await deployment.start_gateway()
    try:
        primary, candidate = bundle(deployment, "one"), bundle(deployment, "two")
        said = await publish(deployment, first_split(primary))
        assert said.applied, said.message
        split = Split("brand", primary, candidate, None, canary_bp, 0, 0, 0, "second")
        said = await publish(deployment, split)
        assert said.applied, said.message
        yield server, split
    finally:
        deployment.kill("gateway")
        await server.stop()


def test_a_canary_is_taken_back_while_the_primarys_adapter_is_another(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with canary(deployment, 1) as (server, split):
            server.adapters["one"] = NEWER
            await until(deployment, "any", is_answered=False)
            said = await publish(deployment, replace(split, candidate=None, canary_bp=0))
            assert said.applied, said.message
            server.adapters["one"] = "/models/one"
            await until(deployment, "any", is_answered=True)

    run(tmp_path, story)


def test_a_canary_is_taken_back_while_its_server_is_away(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with canary(deployment, 10_000) as (server, split):
            server.model.is_up = False
            await until(deployment, "any", is_answered=False)
            said = await publish(deployment, replace(split, candidate=None, canary_bp=0))
            assert said.applied, said.message
            server.model.is_up = True
            await until(deployment, "any", is_answered=True)
            assert (await deployment.decide("a page")).arm == decide_pb2.ARM_PRIMARY

    run(tmp_path, story)


def test_a_refused_plan_leaves_the_plan_in_force_its_bundles(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with canary(deployment, 5_000) as (server, split):
            server.adapters["two"] = NEWER
            drawn = "unit-0"
            for number in range(100):
                drawn = f"unit-{number}"
                if (await deployment.decide("a page", routing_key=drawn)).arm == decide_pb2.ARM_CANARY:
                    break
            await until(deployment, drawn, is_answered=False)
            said = await publish(deployment, replace(split, canary_bp=10_000))
            assert (said.applied, said.reason) == (False, "bundle_invalid")
            server.adapters["two"] = "/models/two"
            await until(deployment, drawn, is_answered=True)

    run(tmp_path, story)
