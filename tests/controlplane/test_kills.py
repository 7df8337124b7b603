"""Kills of each process at each stage: what was acknowledged stays, and the loop goes on."""

from pathlib import Path

import pytest

from controlplane.store import ledger_audit
from controlplane.store.store import Store
from protos import control_pb2
from protos.contract.attestation import read_public
from tests.controlplane.deployment import SPECIALIST, Deployment
from tests.controlplane.ready import Ready


async def killed(deployment: Deployment, victim: str) -> None:
    """Kill a process and start it again."""
    deployment.kill(victim)
    if victim == "worker":
        deployment.start_worker()
    else:
        await deployment.start(victim)


@pytest.mark.parametrize("victim", ["control", "gateway", "worker"])
def test_a_kill_at_any_stage_loses_nothing_that_was_approved(ready: Ready, tmp_path: Path, victim: str) -> None:
    async def story(deployment: Deployment) -> None:
        name = await deployment.begun(ready.new)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        await killed(deployment, victim)
        found = await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        assert (found.phase, found.canary_bp) == ("shadow", 0)
        await deployment.approve(name)
        await killed(deployment, victim)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
        await deployment.approved_into("primary", name)
        status = await deployment.in_force()
        generations = [p.generation for p in status.plans]
        assert generations == sorted(set(generations))
        answers = [a for a in await deployment.drive(40) if not a.fallback.used]
        assert {a.bundle_digest for a in answers} == {ready.new} != {ready.old}
        deployment.kill("control")
        store = Store(f"sqlite:///{tmp_path / 'control.db'}")
        with store.reading() as unit:
            report = ledger_audit.verify(unit.connection, read_public(tmp_path / "plan.key.pub"), "interlock/test")
        store.close()
        assert report.is_intact, report.problem

    ready.run(tmp_path, story)


def test_a_job_whose_control_plane_was_killed_is_done_by_the_next_one(ready: Ready, tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        bundle = deployment.bundle(0.9)
        request = control_pb2.EvaluateRequest(specialist=SPECIALIST, bundle_digest=bundle, operation_id="op-1")
        job = await deployment.ask("Evaluate", request)
        wanted = control_pb2.GetJobRequest(id=job.id)
        await deployment.until("GetJob", wanted, lambda j: j.state == "running")
        deployment.kill("control")
        await deployment.start("control")
        again = await deployment.ask("Evaluate", request)
        assert again.id == job.id
        found = await deployment.until("GetJob", wanted, lambda j: j.state in ("done", "failed"))
        assert (found.state, found.attempt) == ("done", 2), found.message

    ready.run(tmp_path, story)
