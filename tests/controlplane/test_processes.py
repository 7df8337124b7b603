"""The whole loop as its users meet it: three processes, signed approvals, kills."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from controlplane.report.verify import verify_evidence
from controlplane.store import plans
from controlplane.store.store import Store
from protos import control_pb2, engine_pb2
from protos.contract.attestation import Operators, read_private, read_public
from protos.contract.digest import digest_bytes
from protos.contract.plan import TrafficPlan
from protos.contract.plan_rules import sign_plan
from tests.controlplane.cli.fake import interlock, said
from tests.controlplane.deployment import PACK, SPECIALIST, Deployment
from tests.controlplane.ready import Ready


def trained(deployment: Deployment) -> tuple[str, tuple[str, ...]]:
    """Train a bundle on a file, as a person does; return its digest and the command that the training ends with."""
    data = deployment.root / "cases.jsonl"
    # Words of its own: the fence keeps out whatever is nearly one of the suite's cases.
    rows = (
        {"text": f"{label} {i * 7919:030b}", "label": label}
        for i in range(100)
        for label in deployment.pack.task.labels
    )
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ("--store", str(deployment.store.root), "--artifacts", str(deployment.root / "artifacts"))
    code, made = said("bundle", "train", PACK, "--data", str(data), "--author", "trainer", *where)
    assert code == 0, made
    return made["bundle"], tuple(made["next"]["submit"].split()[1:])


def test_a_bundle_trained_on_a_file_becomes_primary_through_shadow_canary_and_two_approvals(
    ready: Ready, tmp_path: Path
) -> None:
    async def story(deployment: Deployment) -> None:
        old = ready.old
        answers = await deployment.drive(40)
        assert {a.bundle_digest for a in answers} == {old}

        new, submit = await asyncio.to_thread(trained, deployment)
        control = ("--control", f"127.0.0.1:{deployment.ports['control']}")
        code, started = await asyncio.to_thread(said, *submit, *control)
        assert code == 0, started
        name = started["id"]
        shadowed = await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        assert (shadowed.phase, shadowed.canary_bp) == ("shadow", 0)
        assert {g.verdict for g in shadowed.gates} == {"pass"}
        shadow = await deployment.until(
            "GetShadowReport",
            control_pb2.GetShadowReportRequest(rollout=SPECIALIST),
            lambda r: r.flow.offered >= r.pairs and r.flow.offered == r.flow.paired + sum(r.flow.drops.values()),
        )
        assert (shadow.rollout, shadow.primary_digest, shadow.candidate_digest) == (name, old, new)
        assert shadow.pairs == sum(d.n for d in shadow.decisions) == shadow.detailed > 0
        # What was under way when the traffic ended may have moved a gate that passed by a hair.
        assert {g.gate for g in shadow.gates} == {g.gate for g in shadowed.gates}
        assert "fail" not in {g.verdict for g in shadow.gates}
        assert shadow.in_time.value > 0.5
        assert all(value > 0 for value in shadow.engine_us.primary.value)
        assert shadow.known_cost.sample > 0 > shadow.known_cost.value

        begun = await deployment.approved_into("canary", name)
        assert begun.canary_bp >= 2000
        canaried = await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
        assert canaried.canary_bp == 5000
        await deployment.approved_into("primary", name)
        status = await deployment.in_force()
        answers = await deployment.drive(40)
        assert {a.bundle_digest for a in answers} == {new}
        assert all(plan.state in ("applied", "superseded") for plan in status.plans)

        found = await deployment.ask("GetEvidence", control_pb2.GetEvidenceRequest(rollout=name))
        keys = ("--plan-key", str(tmp_path / "plan.key.pub"), "--operators", str(tmp_path / "operators.json"))
        code, _ = interlock("evidence", "report", found.path, "--out", str(tmp_path / "page.html"), *keys)
        written = (tmp_path / "page.html").read_text("utf-8")
        assert code == 0
        for expected in ("Promoted: the candidate answers all traffic", "Verified: every check", "looks right"):
            assert expected in written

    ready.run(tmp_path, story)


def test_a_canary_that_turns_bad_is_rolled_back_without_anybody(ready: Ready, tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        old, new = ready.old, ready.new
        name = await deployment.begun(new)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        await deployment.approved_into("canary", name)
        await deployment.inject(new, engine_pb2.FAULT_KIND_INVERT)
        back = await deployment.driven_until(name, lambda r: r.phase == "rolled_back" and r.rollback_ms > 0)
        assert "fail" in {g.verdict for g in back.gates}
        await deployment.in_force()
        assert {a.bundle_digest for a in await deployment.drive(40)} == {old}

    ready.run(tmp_path, story)


def test_the_evidence_of_a_promotion_verifies_offline_and_a_changed_byte_does_not(ready: Ready, tmp_path: Path) -> None:
    folder, key = tmp_path / "evidence", read_public(ready.root / "plan.key.pub")
    shutil.copytree(ready.evidence, folder)
    operators = Operators.read(ready.root / "operators.json")
    checks = verify_evidence(folder, key, operators, "test")
    names = "signature files operators evaluation statements approvals plans ledger"
    assert [c.name for c in checks] == names.split()
    assert all(c.ok for c in checks), checks
    assert digest_bytes((folder / "manifest.json").read_bytes()) == ready.evidence_digest

    stranger = read_public(ready.root / "ann.key.pub")
    assert {c.name for c in verify_evidence(folder, stranger, operators, "test") if not c.ok} == {"signature"}
    assert not all(c.ok for c in verify_evidence(folder, key, operators, "another"))
    nobody = Operators(2, 1, ())
    assert "approvals" in {c.name for c in verify_evidence(folder, key, nobody, "test") if not c.ok}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        assert not all(c.ok for c in verify_evidence(folder, key, operators, "test")), path
        path.write_bytes(data)


def test_a_plan_smuggled_into_the_database_is_refused_by_the_gateway_and_left_behind(
    ready: Ready, tmp_path: Path
) -> None:
    async def story(deployment: Deployment) -> None:
        old, new = ready.old, ready.new
        evil = deployment.bundle(0.0, seed=9)
        standing = TrafficPlan.from_json(json.loads((await deployment.in_force()).plans[-1].plan_json))
        split = replace(standing.splits[0], candidate=evil, canary_bp=10_000)
        forged = replace(standing, generation=standing.generation + 1, splits=(split,))
        store = Store(f"sqlite:///{tmp_path / 'control.db'}")
        with store.writing(int(time.time() * 1000)) as unit:
            plans.add(unit, sign_plan(forged, read_private(tmp_path / "plan.key")), forged, None)
        store.close()

        status = await deployment.until(
            "GetPlanStatus", control_pb2.GetPlanStatusRequest(), lambda s: s.plans[-1].state == "refused"
        )
        assert status.plans[-1].refused_reason == "approval_missing"
        assert status.gateways[0].refusals == 1
        assert {a.bundle_digest for a in await deployment.drive(20)} == {old}

        await deployment.rollout(await deployment.begun(new), lambda r: r.phase == "shadow")
        assert (await deployment.in_force()).plans[-1].generation == forged.generation + 1

    ready.run(tmp_path, story)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"expires": 1}, "FAILED_PRECONDITION"),
        ({"person": "bob"}, "UNAUTHENTICATED"),
        ({"ceiling_bp": 9_000}, "FAILED_PRECONDITION"),
        ({"audience": "elsewhere"}, "FAILED_PRECONDITION"),
        ({"bundle": "sha256:" + "0" * 64}, "FAILED_PRECONDITION"),
        ({"author": "ann"}, "PERMISSION_DENIED"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v,
)
def test_an_approval_that_does_not_fit_is_refused_and_leaves_no_trace(
    refusals: "Refusals", changes: dict[str, Any], status: str
) -> None:
    code, before, after = refusals.submit(changes)
    assert code == status
    assert before == after


class Refusals:
    """A deployment whose canary waits for an approval, shared by cases that must not change it."""

    def __init__(self, runner: asyncio.Runner, deployment: Deployment, name: str) -> None:
        self._runner, self._deployment, self._name = runner, deployment, name

    def submit(self, changes: dict[str, Any]) -> tuple[str, int, int]:
        """Submit an approval; return the status and the number of approvals known before and after."""

        async def whole() -> tuple[str, int, int]:
            before = await self._deployment.rollout(self._name, lambda r: True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await self._deployment.approve(self._name, **changes)
            after = await self._deployment.rollout(self._name, lambda r: True)
            return caught.value.code().name, len(before.approvals), len(after.approvals)

        return self._runner.run(whole())


@pytest.fixture(scope="module")
def refusals(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusals]:
    async def begin() -> str:
        name = await deployment.begun(ready.new)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        return name

    with asyncio.Runner() as runner:
        running = ready.copy(tmp_path_factory.mktemp("refusals"))
        deployment = runner.run(running.__aenter__())
        try:
            yield Refusals(runner, deployment, runner.run(begin()))
        finally:
            runner.run(running.__aexit__(None, None, None))


def test_people_may_hold_reject_and_go_back_after_a_promotion(ready: Ready, tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        old, new = ready.old, ready.new
        said = {"person": "ops", "reason": "second thoughts"}

        rejected = await deployment.begun(new)
        await deployment.rollout(rejected, lambda r: r.phase == "shadow")
        over = await deployment.ask("RejectRollout", control_pb2.RolloutCommand(rollout=rejected, **said))
        assert (over.phase, over.end_reason) == ("rejected", "ops: second thoughts")
        status = await deployment.in_force()
        assert json.loads(status.plans[-1].plan_json)["splits"][0]["candidate"] is None
        with pytest.raises(grpc.aio.AioRpcError) as again:
            await deployment.ask("RollBack", control_pb2.RolloutCommand(rollout=rejected, **said))
        assert again.value.code().name == "FAILED_PRECONDITION"

        name = await deployment.begun(new)
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "canary")
        await deployment.ask("HoldRollout", control_pb2.RolloutCommand(rollout=name, **said))
        await deployment.approve(name)
        held = await deployment.rollout(name, lambda r: r.waiting_for == "held by a person")
        assert (held.phase, held.canary_bp) == ("shadow", 0)
        await deployment.ask("ResumeRollout", control_pb2.RolloutCommand(rollout=name, **said))
        await deployment.driven_until(name, lambda r: r.needs_approval_for == "primary")
        await deployment.approved_into("primary", name)
        assert {a.bundle_digest for a in await deployment.drive(20)} == {new}

        back = await deployment.ask("RollBack", control_pb2.RolloutCommand(rollout=name, **said))
        assert back.phase == "rolled_back"
        await deployment.in_force()
        assert {a.bundle_digest for a in await deployment.drive(20)} == {old}
        actions = [
            e.action for e in (await deployment.ask("GetHistory", control_pb2.GetHistoryRequest(rollout=name))).entries
        ]
        assert [a for a in actions if a.startswith("rollout.")] == [
            "rollout.started",
            "rollout.shadowing",
            "rollout.held",
            "rollout.resumed",
            "rollout.shifted",
            "rollout.shifted",
            "rollout.promoted",
            "rollout.rolled_back",
        ]

    ready.run(tmp_path, story)
