"""The story the demo tells, told by running it: every line it prints was measured just before."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.demo import summary
from controlplane.demo.deployment import NAME, PERSON, STAGES_BP, DemoFailed, Deployment
from controlplane.demo.operator import Operator
from controlplane.demo.screen import Screen
from controlplane.demo.traffic import Traffic
from controlplane.packs.registry import Pack
from controlplane.store import plans
from controlplane.store.store import Store
from protos import control_pb2 as pb
from protos.contract.attestation import read_private
from protos.contract.bundle import BundleStore
from protos.contract.head import HEAD, Head
from protos.contract.plan import TrafficPlan
from protos.contract.plan_rules import sign_plan

WAVE = 0.6  # share of requests that come from the new wave once traffic has shifted
FIRST, LAST = (f"{stage / 100:g} %" for stage in STAGES_BP)
SETTLE_S = 2.0  # of traffic before and after a change, to be seen


class Story:
    """One run from an empty folder to a verified rollback."""

    def __init__(self, deployment: Deployment, pack: Pack, screen: Screen, rate: float) -> None:
        self._deployment = deployment
        self._pack = pack
        self._name = pack.task.name
        self._screen = screen
        self._traffic = Traffic(deployment.gateway, pack, rate)
        self._operator = Operator(deployment, self._name, screen)
        self._bundles = BundleStore(deployment.root / "bundles")
        self._evaluation: dict[str, Any] = {}
        self._rollback_ms = 0.0
        self._evidence: dict[str, str] = {}
        self._is_verified = False

    async def tell(self) -> dict[str, Any]:
        """Run the whole story and return its summary; raises DemoFailed."""
        await self._bootstrap()
        await self._traffic.pace()
        async with self._live():
            await self._steady()
            await self._drift()
            promoted = await self._promote()
            bad = await self._roll_back()
        await self._verify(promoted, bad)
        told = await self._summary(promoted)
        await self._operator.close()
        return told

    async def _bootstrap(self) -> None:
        screen = self._screen
        screen.event(f"gateway {self._deployment.gateway}, control plane {self._deployment.control}, one engine worker")
        await self._operator.command(
            "specialist", "train", self._name, "--reason", "first bundle", "--as", "trainer", "--no-wait"
        )
        job = await self._operator.job("train", "training the first bundle (LoRA on MiniLM, one CPU child process)")
        screen.event(f"trained {_short(job['bundle_digest'])} in {job['seconds']:.0f} s, {job['steps']} steps")
        judged = await self._operator.job("evaluate", "evaluating it against locked thresholds and a TF-IDF control")
        self._accepted(judged, "the first bundle")
        rollout = await self._operator.rollout(
            "", lambda r: r.needs_approval_for == "bootstrap", "waiting for the rollout"
        )
        plan = await self._operator.approve(rollout.id, "first bundle, reviewed")
        screen.event(
            f"gateway verified the signature and applied plan {plan.generation}: 100 % to the first primary", "green"
        )

    async def _steady(self) -> None:
        self._screen.follow(self._traffic)
        self._screen.event(f"callers from now on: {self._traffic.rate:.0f} requests a second")
        readings = await self._operator.readings(
            lambda rows: {"input", "score", "sudden"} <= {r.signal for r in rows},
            "steady traffic, learning what normal is",
        )
        for r in readings:
            self._screen.event(
                f"drift check on {r.signal}: {r.verdict}, {r.value:.3f} against {r.threshold:.3f}; {r.action}"
            )

    async def _drift(self) -> None:
        self._traffic.shift(WAVE)
        self._screen.event(f"traffic shifts: {WAVE:.0%} of requests now come from a new wave", "yellow")
        readings = await self._operator.readings(
            lambda rows: any(r.action == "retraining" for r in rows), "watching windows of live traffic"
        )
        for r in (r for r in readings if r.verdict in ("drift", "watch")):
            self._screen.event(f"drift check on {r.signal}: {r.verdict}. {r.summary}; {r.action}", "yellow")

    async def _promote(self) -> str:
        screen = self._screen
        job = await self._operator.job("train", "retraining on labelled live traffic; callers are served meanwhile")
        screen.event(f"retrained {_short(job['bundle_digest'])} in {job['seconds']:.0f} s while serving")
        judged = await self._operator.job("evaluate", "evaluating candidate, primary and control on held-out texts")
        self._show_gates(judged)
        self._accepted(judged, "the retrained bundle")
        self._evaluation = json.loads(Path(judged["evaluation_file"]).read_text())
        rollout = await self._operator.rollout(
            "", lambda r: r.needs_approval_for == "canary", "shadow: candidate answers beside the primary, to nobody"
        )
        self._show(rollout, "shadow passed")
        await self._forge(rollout)
        plan = await self._operator.approve(rollout.id, "better on the wave, no worse elsewhere")
        screen.event(f"gateway verified the approval and applied plan {plan.generation}: canary at {FIRST}", "green")
        seen: set[int] = set()

        def is_done(r: pb.Rollout) -> bool:
            if r.canary_bp not in seen and r.phase == "canary":
                seen.add(r.canary_bp)
                if len(seen) > 1:
                    screen.event(
                        f"gates passed; within the approved ceiling the canary rises to {r.canary_bp / 100:g} %"
                    )
            return bool(r.needs_approval_for == "primary")

        rollout = await self._operator.rollout(rollout.id, is_done, "canary: live gate verdicts")
        self._show(rollout, "last canary stage passed")
        plan = await self._operator.approve(rollout.id, f"canary held at {LAST}")
        screen.event(f"second approval verified, plan {plan.generation}: the candidate is the primary", "green")
        screen.gates([], "")
        await asyncio.sleep(SETTLE_S)
        return str(rollout.id)

    async def _forge(self, rollout: pb.Rollout) -> None:
        """Put a plan into the database that raises the canary, signed with the plan key but approved by nobody."""
        standing = (await self._operator.plans())[-1]
        plan = TrafficPlan.from_json(json.loads(standing.plan_json))
        splits = tuple(replace(s, canary_bp=5_000) if s.specialist == self._name else s for s in plan.splits)
        forged = replace(plan, generation=plan.generation + 1, splits=splits)
        key = read_private(self._deployment.root / "keys" / "plan.key")
        store = Store(self._deployment.database)
        try:
            with store.writing(time.time_ns() // 1_000_000) as unit:
                plans.add(unit, sign_plan(forged, key), forged, None)
        finally:
            store.close()
        self._screen.event(
            f"somebody with the database and the plan key raises {_short(rollout.candidate_digest)} to 50 % "
            f"in plan {forged.generation}, without an approval",
            "red",
        )
        found = await self._operator.wait(
            self._operator.plans,
            lambda rows: any(p.generation == forged.generation and p.state == "refused" for p in rows),
            "refusal",
        )
        refused = next(p for p in found if p.generation == forged.generation)
        self._screen.event(
            f"the gateway refused plan {refused.generation}: {refused.refused_reason}; nothing changed", "green"
        )

    async def _roll_back(self) -> str:
        screen = self._screen
        primary = await self._operator.primary()
        bundle = self._bundles.load(primary)
        head = Head.from_bytes(bundle.contents[HEAD], bundle.manifest.task)
        warmer = replace(head, temperature=head.temperature * 1.05)
        copy = self._bundles.add(
            task=bundle.manifest.task,
            engine=bundle.manifest.engine,
            contents={**bundle.contents, HEAD: warmer.to_bytes()},
            base=bundle.manifest.base,
            lineage={**bundle.manifest.lineage, "parent": primary, "author": "calibrator"},
        )
        screen.event(f"next candidate: {_short(copy.digest)}, the primary recalibrated")
        await self._operator.command("specialist", "eval", self._name, copy.digest, "--no-wait")
        judged = await self._operator.job("evaluate", "evaluating it")
        self._accepted(judged, "the recalibrated copy")
        await self._operator.command("rollout", "start", self._name, copy.digest, "--as", PERSON)
        rollout = await self._operator.rollout(
            "", lambda r: r.needs_approval_for == "canary", "shadow of the second candidate"
        )
        await self._operator.approve(rollout.id, "recalibration")
        screen.event(f"approved, canary at {FIRST}; now its engine breaks: confidently wrong answers, on time", "red")
        await asyncio.sleep(1.0)
        began = time.monotonic()
        await self._deployment.break_engine(copy.digest)
        await self._operator.rollout(rollout.id, lambda r: r.phase == "rolled_back", "the gates are watching")
        # Rolled back is decided first; the gateway's acknowledgement, which dates the time it took, comes after.
        back = await self._operator.rollout(
            rollout.id, lambda r: r.rollback_ms > 0, "waiting for the gateway to say so", may_be_over=True
        )
        self._rollback_ms = 1000 * (time.monotonic() - began)
        failed = [g.summary for g in back.gates if g.verdict == "fail"]
        screen.event(f"harm measured: {failed[0] if failed else back.end_reason}", "yellow")
        screen.event(
            f"rolled back by itself {self._rollback_ms / 1000:.1f} s after the engine broke; "
            f"{back.rollback_ms} ms from the failing reading to the gateway's acknowledgement",
            "green",
        )
        screen.gates([], "")
        await asyncio.sleep(SETTLE_S)
        return str(rollout.id)

    async def _verify(self, promoted: str, bad: str) -> None:
        root, keys = self._deployment.root, self._deployment.root / "keys" / "plan.key.pub"
        for rollout in (bad, promoted):
            self._evidence = await self._operator.command("evidence", "build", rollout)
            checks = await self._operator.command(
                "evidence", "verify", self._evidence["path"], "--plan-key", str(keys), "--operators",
                str(root / "operators.json"), "--deployment", NAME,
            )  # fmt: skip
            good = checks["checks"] if isinstance(checks, dict) else checks
            self._screen.event("evidence verified offline: " + ", ".join(c["name"] for c in good if c["ok"]), "green")
        report = await self._operator.command("ledger", "verify", "--config", str(self._deployment.config))
        self._is_verified = True
        self._screen.event(f"ledger verified: {report.get('size', '?')} entries under one signed root", "green")

    async def _summary(self, promoted: str) -> dict[str, Any]:
        return {
            "rate": round(self._traffic.rate, 1),
            **summary.of_callers(self._traffic),
            **summary.of_plans(await self._operator.plans(), self._name),
            "drift": summary.of_drift(await self._operator.drift()),
            "scores": summary.of_scores(self._evaluation),
            "rollback_ms": round(self._rollback_ms),
            "evidence": self._evidence["path"],
            "ledger_verified": self._is_verified,
            "rollout": promoted,
            "resident_mb": {name: round(mb, 1) for name, mb in self._deployment.resident_mb().items()},
            "seconds": round(self._screen.elapsed_s, 1),
        }

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        callers = asyncio.create_task(self._traffic.run())
        try:
            yield
        finally:
            callers.cancel()
            await asyncio.gather(callers, return_exceptions=True)

    @staticmethod
    def _accepted(judged: dict[str, Any], what: str) -> None:
        failed = [f"{g['text']}, found {g['found']:.3f}" for g in judged["gates"] if g["passed"] is False]
        if failed:
            raise DemoFailed(f"the suite did not accept {what}: {'; '.join(failed)}")

    def _show_gates(self, judged: dict[str, Any]) -> None:
        for gate in judged["gates"]:
            word = {True: "pass", False: "FAIL", None: "n/a "}[gate["passed"]]
            found = "" if gate["found"] is None else f": {gate['found']:.3f}"
            span = "" if gate["low"] is None else f" ({gate['low']:.3f} to {gate['high']:.3f})"
            self._screen.event(f"  {word}  {gate['text']}{found}{span}", "" if gate["passed"] is not False else "red")

    def _show(self, rollout: pb.Rollout, title: str) -> None:
        self._screen.event(f"{title}:")
        for gate in rollout.gates:
            self._screen.event(f"  {gate.verdict}  {gate.summary}")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
