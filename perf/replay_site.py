"""A deployment in one process, on a clock of its own: the control plane's steps, a gateway's plan, a real worker.

Nothing but transport is left out. Requests are drawn as a gateway draws them, answered by a worker process, written
into capture segments, and counted; plans are signed, offered, verified and acknowledged.
"""

import asyncio
import heapq
import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.evals.engine import Engine, Scores
from controlplane.loop import advance, approvals, drift, observe, recheck, triggers
from controlplane.loop.deployment import Deployment
from controlplane.loop.embedding import best_embedder
from controlplane.loop.publish import acknowledged, offer_of
from controlplane.loop.work import Worker
from controlplane.packs.registry import TrainingPack
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store import counters, plans, records, rollouts
from controlplane.store.artifacts import Artifacts
from controlplane.store.store import Store
from controlplane.store.vault import Vault
from gateway.domain.assignment import Arm, Assignment, assign
from gateway.metrics import LATENCY_BOUNDS_US, Metrics
from gateway.serving.cache import DecisionCache
from gateway.serving.counters import Counters
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.lanes import Lanes, LaneSettings
from protos import capture_pb2, decide_pb2, traffic_pb2
from protos.contract.attestation import Operator, Operators, generate_key, public_text, read_private, sign_approval
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.ledger_proof import APPROVAL_GIVEN
from protos.contract.plan_rules import PlanRefused
from protos.contract.segment import SegmentWriter
from protos.contract.task import TaskSpec

PEOPLE = ("ann", "bob")  # both have to sign
GATEWAY, DEPLOYMENT = "gateway-1", "replay"
START_MS = 1_325_376_000_000  # 2012-01-01, when the headlines begin
VALID_S = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Request:
    """One request of live traffic, and what turns out to be true of it."""

    id: str
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Delay:
    """When outcomes come: log-normal around a median; some never do."""

    median_s: float
    spread: float
    missing: float


class Clock:
    """The deployment's time, Unix milliseconds; only the replay moves it."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


class WorkerPool:
    """A gateway's engine pool over one worker process."""

    preloads: tuple[str, ...] = ()

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: set[str] = set()

    async def load(self, bundle: str) -> None:
        """Load a bundle, once."""
        if bundle not in self._loaded:
            self._engine.load(bundle)
            self._loaded.add(bundle)

    def want(self, bundle: str) -> None:
        """Nothing to do: plans are applied once their bundles are loaded."""

    def capabilities(self, bundle: str) -> None:
        """Say nothing beyond what the bundle itself says."""

    def keep_only(self, bundles: set[str]) -> None:
        """Keep all: earlier bundles are asked again, for comparison."""


class Site:
    """The deployment. ``tell`` hears of what happens: the kind, and a sentence."""

    def __init__(
        self,
        root: Path,
        pack: TrainingPack,
        source: Path,
        engine: Engine,
        settings: dict[str, Any],
        delay: Delay,
        tell: Callable[[str, str], None],
    ) -> None:
        self.root, self.clock, self._tell = root, Clock(), tell
        self._task: TaskSpec = pack.task
        generate_key(root / "plan.key")
        for person in PEOPLE:
            generate_key(root / f"{person}.key")
        keys = {person: public_text(read_private(root / f"{person}.key").public_key()) for person in PEOPLE}
        people = Operators(1, len(PEOPLE), tuple(Operator(p, ("approver",), (keys[p],)) for p in PEOPLE))
        (root / "operators.json").write_bytes(canonical_json(people.to_json()))
        given = {
            "deployment": DEPLOYMENT,
            "bundles_dir": "bundles",
            "capture_dir": "capture",
            "operators": "operators.json",
            "plan_key": "plan.key",
            "specialists": [{"pack": pack.task.name}],
            **settings,
        }
        (root / "capture").mkdir()
        self.deployment = Deployment(
            settings=ControlSettings.from_json(given, root),
            store=Store(f"sqlite:///{root / 'control.db'}", vault := Vault(None)),
            artifacts=Artifacts(root / "artifacts", vault),
            bundles=BundleStore(root / "bundles"),
            key=read_private(root / "plan.key"),
            packs={pack.task.name: pack},
            sources={pack.task.name: SpecialistSettings(pack.task.name, source, None)},
            clock=self.clock,
            embedder=best_embedder(foreground=True),
            opener=None,
            changed=lambda: None,
        )
        self._engine = engine
        self._counters = Counters()
        self._plan = CurrentPlan(
            deployment=DEPLOYMENT,
            key=self.deployment.key.public_key(),
            operators=lambda: people,
            store=self.deployment.bundles,
            pool=WorkerPool(engine),  # type: ignore[arg-type]
            lanes=Lanes(LaneSettings(), 256),
            cache=DecisionCache(0),
            state_dir=root / "gateway",
            metrics=Metrics(),
            clock=lambda: self.clock() / 1000,
        )
        self._worker = Worker(self.deployment, _in_thread)
        self._delay = delay
        self._chance = random.Random(f"outcomes/{DEPLOYMENT}")  # noqa: S311 - delays, not secrets
        self._due: list[tuple[int, str, str]] = []  # outcomes to come: when, decision, label
        self._segments = itertools.count(1)
        self._seen = 0  # size of the ledger head that the gateway holds

    @property
    def name(self) -> str:
        """The specialist."""
        return self._task.name

    @property
    def primary(self) -> str | None:
        """The bundle that the gateway has in place."""
        routes = self._plan.routes
        split = routes.plan.split_for(self.name) if routes is not None else None
        return None if split is None else split.primary

    def close(self) -> None:
        """End what was started."""
        self.deployment.embedder.close()
        self.deployment.store.close()

    def serve(self, requests: Sequence[Request], apart_ms: int) -> list[tuple[str, str]]:
        """Answer requests as the plan in force says; return (bundle, label answered) of each.

        ``apart_ms`` passes between two of them, and the outcomes that fall due meanwhile are reported.
        """
        assert self._plan.routes is not None
        split = self._plan.routes.plan.split_for(self.name)
        assert split is not None
        drawn = [assign(split, request.id) for request in requests]
        answers = self._answers(requests, [one.bundle for one in drawn])
        watched = self._answers(requests, [one.shadow for one in drawn])
        found: list[capture_pb2.CaptureRecord] = []
        said = []
        for request, assignment, own, copied in zip(requests, drawn, answers, watched, strict=True):
            assert own is not None
            self.clock.now_ms += apart_ms
            answer = self._answer(request, assignment, own)
            said.append((assignment.bundle, answer.label))
            count = self._counters.of(self.name, split.salt, Arm(assignment.arm), assignment.bundle)
            Counters.answered(count, bisect_left(LATENCY_BOUNDS_US, int(1000 * own[2])), True, "")
            found.append(
                capture_pb2.CaptureRecord(
                    sample=capture_pb2.Sample(
                        decision_id=request.id,
                        specialist=self.name,
                        input=decide_pb2.Input(text=request.text),
                        answer=answer,
                        at_unix_ms=self.clock(),
                        inclusion_bp=split.capture_bp,
                        salt=split.salt,
                        in_time=True,
                        drawn_for="rate",
                        inclusion=split.capture_bp / 10_000,
                    )
                )
            )
            if copied is not None and split.candidate is not None:
                found.append(self._pair(answer, split.salt, (split.primary, split.candidate), own, copied))
            if self._chance.random() >= self._delay.missing:
                late = self._delay.median_s * self._chance.lognormvariate(0, self._delay.spread)
                heapq.heappush(self._due, (self.clock() + int(1000 * late), request.id, request.label))
        found += self._outcomes()
        writer = SegmentWriter(self.root / "capture" / f"{self.clock():015d}-replay-{next(self._segments):06d}.seg")
        writer.append(found)
        writer.close()
        return said

    async def step(self) -> None:
        """Let the control plane and the gateway do all there is to do now; people sign what waits for them."""
        report = traffic_pb2.GatewayReport(
            gateway_id=GATEWAY, run_id="1", generation=self._plan.generation, arms=self._counters.report()
        )
        with self.deployment.store.writing(self.clock()) as unit:
            counters.keep(unit, report)
        observe.observe(self.deployment)
        drift.watch(self.deployment)
        triggers.watch(self.deployment)
        recheck.watch(self.deployment)
        while await self._worker.run_one():
            pass
        # A step of a rollout may allow the next; after as many as there are phases nothing moves any more.
        for _ in range(6):
            advance.advance(self.deployment)
            await self._follow_plans()
            self._sign()

    def labels(self, requests: Sequence[Request], bundle: str) -> list[str]:
        """Return what a bundle would have answered."""
        found = self._engine.score(bundle, [request.text for request in requests])
        return [self._task.labels[i] for i in found.probabilities.argmax(1).tolist()]

    def _answers(self, requests: Sequence[Request], bundles: Sequence[str | None]) -> list[Any]:
        """Have each request answered by its bundle: (probabilities, decision, milliseconds); None without a bundle."""
        found: list[Any] = [None] * len(requests)
        for bundle in sorted({b for b in bundles if b is not None}):
            index = [i for i, b in enumerate(bundles) if b == bundle]
            scores: Scores = self._engine.score(bundle, [requests[i].text for i in index])
            for place, i in enumerate(index):
                found[i] = (
                    scores.probabilities[place],
                    int(scores.decisions[place]),
                    float(scores.latencies_ms[place]),
                )
        return found

    def _answer(self, request: Request, assignment: Assignment, own: Any) -> decide_pb2.DecideResponse:
        task, (probabilities, decision, _) = self._task, own
        answer = decide_pb2.DecideResponse(
            decision_id=request.id,
            arm=int(assignment.arm),  # type: ignore[arg-type]
            bundle_digest=assignment.bundle,
            plan_generation=self._plan.generation,
            bucket=assignment.bucket,
            label=task.labels[int(np.argmax(probabilities))],
            decision=task.decisions[decision],
            score=float(probabilities[task.score_index]),
        )
        for label, p in zip(task.labels, probabilities.tolist(), strict=True):
            answer.probabilities.add(label=label, probability=p)
        return answer

    def _pair(
        self, answer: decide_pb2.DecideResponse, salt: str, bundles: tuple[str, str], own: Any, copied: Any
    ) -> capture_pb2.CaptureRecord:
        task = self._task
        pair = capture_pb2.ShadowPair(
            decision_id=answer.decision_id,
            specialist=task.name,
            salt=salt,
            primary_digest=bundles[0],
            candidate_digest=bundles[1],
            primary_decision=answer.decision,
            candidate_decision=task.decisions[copied[1]],
            primary_label=answer.label,
            candidate_label=task.labels[int(np.argmax(copied[0]))],
            primary_score=answer.score,
            candidate_score=float(copied[0][task.score_index]),
            candidate_in_time=True,
            at_unix_ms=self.clock(),
            primary_probabilities=own[0].tolist(),
            candidate_probabilities=copied[0].tolist(),
        )
        return capture_pb2.CaptureRecord(shadow_pair=pair)

    def _outcomes(self) -> list[capture_pb2.CaptureRecord]:
        found = []
        while self._due and self._due[0][0] <= self.clock():
            at_ms, decision, label = heapq.heappop(self._due)
            outcome = capture_pb2.Outcome(
                decision_id=decision,
                specialist=self.name,
                label=label,
                observed_at_unix_ms=at_ms,
                received_at_unix_ms=at_ms,
                source="desk",
            )
            found.append(capture_pb2.CaptureRecord(outcome=outcome))
        return found

    async def _follow_plans(self) -> None:
        """Offer the gateway what is news to it, and take its word."""
        deployment = self.deployment
        with deployment.store.reading() as unit:
            news = [r for r in plans.after(unit, self._plan.generation) if r.state in (plans.OFFERED, plans.APPLIED)]
        for row in news:
            with deployment.store.reading() as unit:
                self._seen, offer = offer_of(unit, deployment, row, self._seen, 1)
            said = traffic_pb2.Acknowledgement(
                gateway_id=GATEWAY, generation=row.generation, plan_digest=row.digest, at_unix_ms=self.clock()
            )
            try:
                await self._plan.offer(offer)
                said.applied = True
            except PlanRefused as refused:
                said.reason, said.message = refused.reason, str(refused)
                self._tell("refused", f"plan {row.generation}: {refused.reason}: {refused}")
            said.generation_in_force = self._plan.generation
            with deployment.store.writing(self.clock()) as unit:
                acknowledged(unit, said)

    def _sign(self) -> None:
        """Have every person sign the step that waits for an approval, and the ledger record it."""
        deployment = self.deployment
        with deployment.store.reading() as unit:
            waiting = [row for row in rollouts.opened(unit) if row.evidence is not None]
        for row in waiting:
            for person in PEOPLE:
                with deployment.store.writing(self.clock()) as unit:
                    found = rollouts.get(unit, row.state.id)
                    step = None if found is None else approvals.next_step(unit, deployment, found)
                    if found is None or step is None or found.evidence is None:
                        break
                    _, draft = approvals.draft(unit, deployment, found, 0)
                    now = self.clock() // 1000
                    made = replace(
                        draft,
                        person=person,
                        reason="gates and suite passed",
                        nonce=f"{person}-{row.state.id}-{step.name}",
                        not_before=now,
                        expires=now + VALID_S,
                    )
                    signed = sign_approval(made, read_private(self.root / f"{person}.key"))
                    given = approvals.check(unit, deployment, found, signed)
                    is_new = plans.add_approval(unit, given.digest, row.state.id, self.name, given.bundle, signed)
                    if is_new:
                        detail = {"statement": given.digest, "rollout": row.state.id, "step": step.name}
                        records.note(unit, given.digest, unit.record(person, APPROVAL_GIVEN, detail))
                        self._tell("approval", f"{person} signed {step.name} of {row.state.id}")


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)
