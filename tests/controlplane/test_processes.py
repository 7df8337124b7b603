"""The whole loop as its users meet it: three processes, signed approvals, kills."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from protos import engine_pb2
from tests.controlplane.deployment import Deployment

Story = Callable[[Deployment], Awaitable[None]]


def run(root: Path, story: Story) -> None:
    async def whole() -> None:
        async with Deployment(root) as deployment:
            await story(deployment)

    asyncio.run(whole())


def test_a_candidate_becomes_primary_through_shadow_canary_and_two_approvals(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        old = await deployment.first_primary()
        answers = await deployment.drive(40)
        assert {a.bundle_digest for a in answers} == {old}

        new = deployment.bundle(1.0)
        await deployment.evaluated(new)
        name = await deployment.begun(new)
        shadowed = await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        assert (shadowed.phase, shadowed.canary_bp) == ("shadowing", 0)
        assert {g.verdict for g in shadowed.gates} == {"pass"}

        begun = await deployment.approve(name)
        assert (begun.phase, begun.canary_bp) == ("canary", 2000)
        canaried = await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
        assert canaried.canary_bp == 5000
        promoted = await deployment.approve(name)
        assert promoted.phase == "promoted"
        status = await deployment.in_force()
        answers = await deployment.drive(40)
        assert {a.bundle_digest for a in answers} == {new}
        assert all(plan.state in ("applied", "superseded") for plan in status.plans)

    run(tmp_path, story)


def test_a_canary_that_turns_bad_is_rolled_back_without_anybody(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        old = await deployment.first_primary()
        new = deployment.bundle(1.0)
        await deployment.evaluated(new)
        name = await deployment.begun(new)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        await deployment.approve(name)
        await deployment.in_force()
        await deployment.inject(new, engine_pb2.FAULT_KIND_INVERT)
        back = await deployment.driven_until(name, lambda r: r.phase == "rolled_back" and r.rollback_ms > 0)
        assert "fail" in {g.verdict for g in back.gates}
        await deployment.in_force()
        assert {a.bundle_digest for a in await deployment.drive(40)} == {old}

    run(tmp_path, story)
