"""Stories told over a running gateway and its workers."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from protos import traffic_pb2
from protos.contract.plan import Split
from protos.contract.task import TaskSpec
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.tasks import TASK

SLOW = replace(TASK, deadline_us=10_000_000)

Story = Callable[[Deployment], Awaitable[None]]


def first_split(bundle: str) -> Split:
    return Split("brand", bundle, None, None, 0, 0, 10_000, 0, "first")


async def start(deployment: Deployment, *more_workers: str, task: TaskSpec = TASK) -> Split:
    """Bring up workers and gateway with one approved primary."""
    for name in ("worker", *more_workers):
        deployment.start_worker(name)
    await deployment.start_gateway()
    split = first_split(deployment.bundle(task))
    deployment.control.approve(split, split.primary)
    acknowledgement = await deployment.control.publish(split)
    assert acknowledgement.applied, acknowledgement.message
    await deployment.until_serving()
    return split


def run(root: Path, story: Story) -> None:
    async def whole() -> None:
        async with Deployment(root) as deployment:
            await story(deployment)

    asyncio.run(whole())


async def ended_shadow(deployment: Deployment, least: int) -> traffic_pb2.ShadowCounters:
    """Wait until the gateway reports that each of at least so many offered copies is paired or dropped."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reports = deployment.control.reports
            shadows = [s for s in (reports[-1].shadows if reports else ()) if s.offered >= least]
            if shadows and shadows[0].offered == shadows[0].paired + sum(shadows[0].drops.values()):
                return shadows[0]
            await asyncio.sleep(0.02)
