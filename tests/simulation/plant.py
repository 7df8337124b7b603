"""A whole deployment without processes: the real control plane on a real database, and several real gateways' plans.

What a process boundary does is played: gateways hear nothing until they are delivered to, the control plane may be
killed inside a transaction or come back on an old database, and whoever stole the plan key runs a second one. After
every act ``check`` compares everything with a model that shares no code with the rules.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from controlplane.domain.rollout import Phase
from controlplane.errors import StepRefused
from controlplane.loop import advance, erasure, observe
from controlplane.loop.deployment import Deployment
from controlplane.loop.embedding import HashedWords
from controlplane.loop.publish import standing_split
from controlplane.packs.registry import load_pack
from controlplane.rpc.control import ControlService
from controlplane.rpc.traffic import TrafficService
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store import counters as counter_rows
from controlplane.store import ledger, outcomes, plans, records, rollouts
from controlplane.store import pairs as pair_rows
from controlplane.store import samples as sample_rows
from controlplane.store.artifacts import Artifacts
from controlplane.store.sealed import opened_by
from controlplane.store.store import Store, Unit
from controlplane.store.vault import Vault
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.serving.cache import DecisionCache
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.lanes import Lanes, LaneSettings
from gateway.serving.witness import Witness
from protos import capture_pb2, decide_pb2, traffic_pb2
from protos import control_pb2 as pb
from protos.contract.attestation import STATEMENT_TYPE, Approval, sign, sign_approval
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json, digest_bytes, digest_json
from protos.contract.draws import pseudonym
from protos.contract.ledger_proof import PLAN_OFFERED
from protos.contract.merkle import leaf_hash, root_of
from protos.contract.plan import Split
from protos.contract.plan_rules import PlanRefused, sign_plan
from protos.contract.rollback import RollbackOrder
from tests.gateway.serving.plans import PEOPLE, LoadsAll, key

NAME = "brand-safety"
START_MS = 1_000_000_000_000
APPROVERS = ("ann", "bob", "eve")
STAGES = (500, 2_000)
ENOUGH = 90  # pairs, or requests an arm, that a gate needs here
PLAN_KEY = key("plan")
TASK = load_pack(NAME)
ZERO = "sha256:" + "0" * 64
METRICS = Metrics()


STORES: dict[Path, Store] = {}
EMPTY: list[bytes] = []  # a database whose tables were just made


def store_at(database: Path, keys: Path) -> Store:
    """Open a database as a start of the process does, on the engine that was made for its path.

    What SQLAlchemy compiled for an engine outlives a restart this way; connections and keys in memory do not.
    """
    if EMPTY and not database.exists():
        database.write_bytes(EMPTY[0])
    if database not in STORES:
        STORES[database] = Store(f"sqlite:///{database}", Vault(keys))
    store = STORES[database]
    if not EMPTY:
        store.engine.dispose()
        EMPTY.append(database.read_bytes())
    store.vault = Vault(keys)
    opened_by(store.engine, store.vault)
    return store


class Killed(Exception):
    """The control plane died here."""


class Refused(Exception):
    """A call was refused, as a caller hears it."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(f"{code.name}: {words}")


class Context:
    """What a call needs of gRPC."""

    async def abort(self, code: grpc.StatusCode, words: str) -> None:
        raise Refused(code, words)


@dataclass
class Gate:
    """One gateway: its plan, its disk, and what an observer knows of it by his own means."""

    name: str
    root: Path
    plan: Any = None
    generation: int = 0
    head: int = 0
    before: dict[str, int] = field(default_factory=dict)  # weights by bundle
    ever_primary: set[str] = field(default_factory=set)
    way_back: str | None = None  # the primary before, as the plan in force names it
    dead: set[str] = field(default_factory=set)  # statements whose weight was taken back here
    orders: set[str] = field(default_factory=set)  # to leave a bundle, that it obeyed
    is_diverted: bool = False  # it followed a ledger that a thief forked
    current_s: int = 0  # when it last knew of no newer plan than its own
    judged_from_s: int = 0  # the same, at the last look at it
    is_misled: bool = False  # an old database told it that nothing newer stood


class Plant:
    """One deployment under a clock that a test turns."""

    def __init__(self, root: Path, gateways: int = 3) -> None:
        self.root = root
        self.now_ms = START_MS
        self.loop = asyncio.new_event_loop()
        self.store_of_bundles = BundleStore(root / "bundles")
        (root / "operators.json").write_bytes(canonical_json(PEOPLE.to_json()))
        self.deployment = self.opened(root / "control.db")
        self.newest: Path | None = None  # the database that an old one took the place of
        self.signed: list[Approval] = []  # whatever anybody ever signed
        self.acknowledged: set[str] = set()  # statements that the control plane said it keeps
        self.made: dict[int, str] = {}  # honest plans that a gateway applied, by generation
        self.numbers = 0
        self.captured: dict[str, tuple[str, str]] = {}  # caller and text by decision, of what was captured
        self.erased: set[str] = set()  # decisions of callers that were erased since
        self.bundles = [self.bundle(seed, "ann" if seed == 3 else "trainer") for seed in range(4)]
        self.gates = [Gate(f"g{i}", root / f"g{i}") for i in range(gateways)]
        for gate in self.gates:
            self.start_gateway(gate)

    def close(self) -> None:
        self.deployment.store.close()
        self.loop.close()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def opened(self, database: Path) -> Deployment:
        """Open a control plane on a database, as a start of its process does."""
        settings = {
            "deployment": "test",
            "bundles_dir": "bundles",
            "capture_dir": "capture",
            "operators": "operators.json",
            "plan_key": "plan.key",
            "specialists": [{"pack": NAME}],
            "rollout": {
                "stages_bp": list(STAGES), "shadow_bp": 5_000, "alpha": 0.2, "cost_margin": 0.3,
                "failure_margin": 0.3, "mistake_margin": 0.3,
            },
        }  # fmt: skip
        return Deployment(
            settings=ControlSettings.from_json(settings, self.root),
            store=store_at(database, self.root / "capture.keys"),
            artifacts=Artifacts(self.root / "artifacts"),
            bundles=self.store_of_bundles,
            key=PLAN_KEY,
            packs={NAME: TASK},
            sources={NAME: SpecialistSettings(NAME, None, None)},
            clock=lambda: self.now_ms,
            embedder=HashedWords(),
            opener=None,
            changed=lambda: None,
        )

    def bundle(self, seed: int, author: str) -> str:
        engine = {"backend": "simulator", "seed": seed}
        lineage = {"author": author}
        made = self.store_of_bundles.add(task=TASK.task, engine=engine, contents={}, base={}, lineage=lineage)
        return str(made.digest)

    def call(self, method: str, request: Any) -> Any:
        """Call the control plane as the command line does; raises Refused."""

        async def in_thread(work: Callable[[], Any]) -> Any:
            return work()

        return self.run(getattr(ControlService(self.deployment, in_thread), method)(request, Context()))

    @contextlib.contextmanager
    def writing(self) -> Iterator[Unit]:
        with self.deployment.store.writing(self.now_ms) as unit:
            yield unit

    def rollout(self) -> rollouts.RolloutRow | None:
        """Return the open rollout, else the last."""
        with self.deployment.store.reading() as unit:
            found = rollouts.listed(unit, NAME)
        return next((row for row in reversed(found) if row.is_open), found[-1] if found else None)

    def split(self) -> Split | None:
        with self.deployment.store.reading() as unit:
            return standing_split(unit, NAME)

    # The control plane

    def judge(self, bundle: str, *, is_accepted: bool) -> str:
        """An evaluation of a bundle beside the present primary comes in."""
        split = self.split()
        body = {
            "suite_digest": self.deployment.artifacts.put(canonical_json(TASK.suite.to_json())),
            "candidate": bundle,
            "primary": split.primary if split else None,
            "accepted": is_accepted,
            "gates": [],
            "values": {"core": {"candidate": {"accuracy": {"value": 0.9, "interval": None}}}},
            "sizes": {"core": 10},
            "regressions_share": None,
            "worst_regressions": [],
            "number": self.numbers,
        }
        self.numbers += 1
        with self.writing() as unit:
            rollouts.add_bundle(unit, bundle, NAME, "operator", "trainer")
            rollouts.add_evaluation(unit, digest_json(body), NAME, body)
        return f"{bundle[7:13]} {'accepted' if is_accepted else 'rejected'}"

    def train(self, bundle: str) -> str:
        with self.writing() as unit:
            rollouts.add_bundle(unit, bundle, NAME, "operator", "trainer")
        return bundle[7:13]

    def start(self, bundle: str) -> str:
        self.numbers += 1
        request = pb.StartRolloutRequest(
            specialist=NAME, bundle_digest=bundle, started_by="ops", operation_id=f"op-{self.numbers}"
        )
        return str(self.call("StartRollout", request).phase)

    def tick(self) -> str:
        self.now_ms += 1_000
        advance.advance(self.deployment)
        row = self.rollout()
        return "no rollout" if row is None else f"{row.state.phase.value} {row.state.stage} {row.waiting_for}"

    def killed_tick(self, at: int) -> str:
        """The control plane dies at its n-th ledger entry from now on, and starts again."""
        record, left = Unit.record, [at]

        def dying(unit: Unit, *given: Any) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return record(unit, *given)

        Unit.record = dying  # type: ignore[method-assign, assignment]
        try:
            advance.advance(self.deployment)
            said = "lived"
        except Killed:
            said = "killed"
        finally:
            Unit.record = record  # type: ignore[method-assign]
        self.deployment.store.close()
        self.deployment = self.opened(self.root / "control.db")
        return said

    def person(self, method: str, name: str = "oli") -> str:
        """A person holds, resumes, rejects or rolls back."""
        row = self.rollout()
        request = pb.RolloutCommand(rollout=row.state.id if row else "none", person=name, reason="because")
        return str(self.call(method, request).phase)

    def measure(self, kind: str) -> str:
        """What a stage shows comes in: good, bad, or odd."""
        row = self.rollout()
        if row is None or row.state.phase not in (Phase.SHADOW, Phase.CANARY):
            return "nothing to measure"
        self.now_ms += 1_000
        said = {"good": "allow", "bad": "block", "odd": "sell"}[kind]
        first, n = self.numbers, ENOUGH * (1 if kind != "bad" else 2)
        self.numbers += 2 * n
        is_canary = row.state.phase is Phase.CANARY
        names = [f"d-{first + i}" for i in range(2 * n)]
        common = {"specialist": NAME, "salt": row.state.id, "at_ms": self.now_ms}
        pairs = [
            {
                **common, "decision_id": name, "candidate": row.state.candidate, "primary_decision": "allow",
                "candidate_decision": said, "in_time": True, "failure": "", "primary_fallback": False,
            }
            for name in names[:n]
        ]  # fmt: skip
        arms = [2 + i % 2 if is_canary else 1 for i in range(len(names))]
        samples = [
            sample_rows.Sample(
                **common, decision_id=name, arm=arm, bundle=ZERO, generation=row.stage_generation,
                text="", decision=said if arm == 3 else "allow", score=0.1,
            )
            for arm, name in zip(arms, names, strict=True)
        ]  # fmt: skip
        known = [
            {
                "specialist": NAME, "decision_id": name, "label": "safe", "source": "t", "observed_ms": self.now_ms,
                "received_ms": self.now_ms,
            }
            for name in names
        ]  # fmt: skip
        with self.writing() as unit:
            pair_rows.add(unit, pairs)
            if kind != "odd":
                sample_rows.add(unit, samples)
            outcomes.add(unit, known)
            counted = counter_rows.arm_counts(unit, NAME, row.state.id)
            counters = []
            for arm in (2, 3):
                total = counted.get(str(arm), {}).get("requests", 0) + n
                counters.append(
                    traffic_pb2.ArmCounters(
                        specialist=NAME,
                        salt=row.state.id,
                        arm=arm,  # type: ignore[arg-type]
                        bundle_digest=ZERO,
                        requests=total,
                        in_time=total,
                    )
                )
            counter_rows.keep(unit, traffic_pb2.GatewayReport(gateway_id="load", run_id="r", arms=counters))
        return f"{n} {kind}"

    def capture(self, caller: str) -> str:
        """A gateway's record of a caller's request is read."""
        split = self.split()
        if split is None:
            return "no plan"
        self.numbers += 1
        name, text = f"c-{self.numbers}", f"words {self.numbers} of {caller}"
        made = capture_pb2.Sample(
            decision_id=name,
            specialist=NAME,
            routing_key_hash=pseudonym(split.salt, caller),
            input=decide_pb2.Input(text=text),
            answer=decide_pb2.DecideResponse(decision="allow", label="safe", arm=1, bundle_digest=split.primary),  # type: ignore[arg-type]
            at_unix_ms=self.now_ms,
            salt=split.salt,
        )
        with self.writing() as unit:
            observe.keep(unit, self.deployment, [capture_pb2.CaptureRecord(sample=made)], "s")
        self.captured[name] = caller, text
        return f"{name} of {caller}"

    def erase(self, caller: str) -> str:
        """A caller asks to be forgotten."""
        if self.newest is not None:
            return "an old database does not know every rollout that the caller was in"
        try:
            with self.writing() as unit:
                found = erasure.erase(unit, self.deployment, NAME, caller=caller, person="stu", reason="asked to")
        except StepRefused as refused:
            return str(refused)
        self.erased |= {name for name, (of, _) in self.captured.items() if of == caller}
        return f"{found.keys} keys of {caller}"

    # People

    def approve(self, name: str, ceiling_bp: int = 0, **odd: Any) -> str:
        """Somebody signs what the control plane drafts, perhaps changed, and submits it; raises Refused."""
        row = self.rollout()
        draft = self.call(
            "DraftApproval", pb.DraftApprovalRequest(rollout=row.state.id if row else "none", ceiling_bp=ceiling_bp)
        )
        now = self.now_ms // 1000
        self.numbers += 1
        made = replace(
            Approval.from_statement(draft.statement),
            person=name, not_before=now, expires=now + 3_600, nonce=f"n-{self.numbers}", reason="reviewed",
        )  # fmt: skip
        made = replace(made, **odd)
        envelope = sign_approval(made, key(name))
        self.signed.append(replace(made, digest=digest_bytes(envelope.payload)))
        self.call("SubmitApproval", pb.SubmitApprovalRequest(rollout=draft.rollout, envelope=envelope))
        if self.newest is None:
            self.acknowledged.add(digest_bytes(envelope.payload))
        return f"{name} {made.step} up to {made.ceiling_bp}"

    # Gateways

    def start_gateway(self, gate: Gate) -> str:
        """Start a gateway, or restart it with everything else away."""
        before = (gate.plan.generation, gate.plan.witness.head, self.in_force(gate)) if gate.plan else None

        def now() -> float:
            return self.now_ms / 1000

        own = key(f"gateway {gate.name}")
        gate.plan = CurrentPlan(
            deployment="test",
            key=PLAN_KEY.public_key(),
            operators=lambda: PEOPLE,
            store=self.store_of_bundles,
            pool=LoadsAll(),  # type: ignore[arg-type]
            lanes=Lanes(LaneSettings(), 64),
            cache=DecisionCache(0),
            state_dir=gate.root,
            metrics=METRICS,
            witness=Witness("test", PLAN_KEY.public_key(), gateway_id=gate.name, own_key=own, clock=now),
            clock=now,
        )
        self.run(gate.plan.restore())
        after = gate.plan.generation, gate.plan.witness.head, self.in_force(gate)
        assert before is None or before == after, f"a restart of {gate.name} changed {before} to {after}"
        return "restarted"

    def new_gateway(self, gate: Gate) -> str:
        """Replace a gateway by one that knows nothing."""
        shutil.rmtree(gate.root, ignore_errors=True)
        fresh = Gate(gate.name, gate.root)
        self.gates[self.gates.index(gate)] = fresh
        self.start_gateway(fresh)
        return f"{gate.name} anew"

    def in_force(self, gate: Gate) -> Split | None:
        routes = gate.plan.routes
        return None if routes is None else routes.plan.split_for(NAME)

    def deliver(self, gate: Gate, *, is_heard: bool = True, by: Deployment | None = None) -> str:
        """Let a gateway connect and take what there is; its words may get lost on the way back."""
        server = TrafficService(by or self.deployment, None, None)  # type: ignore[arg-type]
        head = gate.plan.witness.head
        hello = traffic_pb2.WatchPlanRequest(
            gateway_id=gate.name,
            generation=gate.plan.generation,
            ledger_size=head.size if head else 0,
            operators_version=gate.plan.operators.version,
            witness_key=gate.plan.witness.public_key,
        )
        sent, seen, said = server._hello(hello), hello.ledger_size, []
        for row in server._news(sent):
            seen, offer = server._offer(row, seen, hello.operators_version, gate.name)
            word = traffic_pb2.Acknowledgement(gateway_id=gate.name, plan_digest=row.digest, at_unix_ms=self.now_ms)
            try:
                word.generation = self.run(gate.plan.offer(offer)).generation
                word.applied = True
                if by is None and self.newest is None:
                    assert self.made.setdefault(row.generation, row.digest) == row.digest, (
                        f"two plans of generation {row.generation} are in force"
                    )
            except PlanRefused as refused:
                word.reason, word.message = refused.reason, str(refused)
            word.generation_in_force = gate.plan.generation
            word.cosigned_checkpoint = gate.plan.witness.cosigned()
            said.append(word.reason or f"applied {row.generation}")
            if is_heard:
                server._acknowledge(word)
        if is_heard:
            told = server._report(
                traffic_pb2.GatewayReport(
                    gateway_id=gate.name,
                    run_id="r",
                    generation=gate.plan.generation,
                    plan_digest=gate.plan.digest,
                    rollbacks=gate.plan.to_tell,
                )
            )
            gate.plan.note_newest(told.generation)
            gate.plan.note_recorded(told.recorded)
            if by is not None or self.newest is not None:
                gate.orders -= set(told.recorded)  # by a database that is not the one that stays
            if 0 < told.generation <= gate.plan.generation:
                gate.current_s = self.now_ms // 1000
                gate.is_misled |= self.newest is not None
        return f"{gate.name}: {', '.join(said) or 'no news'}"

    def roll_back_locally(self, gate: Gate, name: str) -> str:
        split = self.in_force(gate)
        if split is None:
            return "nothing in force"
        now = self.now_ms // 1000
        self.numbers += 1
        bundle = split.candidate or split.primary
        made = RollbackOrder(name, NAME, bundle, "test", now, now + 600, f"n-{self.numbers}", "it is wrong")
        try:
            gate.orders.add(gate.plan.roll_back(sign(made.payload(), STATEMENT_TYPE, key(name))).digest)
        except GatewayError as refused:
            return f"refused: {refused}"
        return f"{gate.name} left {bundle[7:13]}"

    # Whoever means harm

    def smuggle(self, wanted: Split, *, is_recorded: bool, deployment: Deployment | None = None) -> str:
        """Write a plan into a database, signed by the plan key, resting on every approval there is."""
        where = deployment or self.deployment
        with where.store.writing(self.now_ms) as unit:
            before = plans.standing(unit)
            if before is None:
                return "no plan to change"
            made = replace(
                before.plan,
                generation=plans.last_generation(unit) + 1,
                splits=(wanted,),
                created_at=self.now_ms // 1000,
            )
            made = replace(
                made, approvals=tuple(sorted({digest_bytes(e.payload) for e in plans.approvals_for(unit, made)}))
            )
            plans.add(unit, sign_plan(made, PLAN_KEY), made, None)
            if is_recorded:
                detail = {"generation": made.generation, "digest": made.digest, "rollout": None, "approvals": []}
                records.note(unit, made.digest, unit.record("interlock-loop", PLAN_OFFERED, detail))
                ledger.checkpoint(unit.connection, where.key, where.ledger_origin)
        return f"plan {made.generation} smuggled"

    def fork(self, gate: Gate, wanted: Split) -> str:
        """Run a second control plane, with the stolen key, on a copy of the database, for one gateway."""
        self.flush()
        copy = self.root / "stolen.db"
        shutil.copy(self.root / "control.db", copy)
        thief = self.opened(copy)
        try:
            self.smuggle(wanted, is_recorded=True, deployment=thief)
            head = gate.plan.witness.head
            said = self.deliver(gate, by=thief)
            gate.is_diverted |= gate.plan.witness.head != head
        finally:
            thief.store.close()
            for path in self.root.glob("stolen.db*"):
                path.unlink()
        return said

    def old_backup(self, copy: Path) -> str:
        """Bring an older copy of the database into place, keeping the newest aside."""
        self.flush()
        if self.newest is None:
            self.newest = self.root / "newest.db"
            shutil.copy(self.root / "control.db", self.newest)
        self._put_in_place(copy)
        return "an old database runs"

    def mend(self) -> str:
        """Put the newest database back; whatever was done on the old one is lost, and gateways notice."""
        if self.newest is None:
            return "nothing to mend"
        self.deployment.store.close()
        self._put_in_place(self.newest)
        self.newest = None
        with self.deployment.store.reading() as unit:
            entries = ledger.entries(unit.connection, 0, 1_000_000)
            for gate in self.gates:
                head = gate.plan.witness.head
                leaves = [leaf_hash(entry.body) for entry in entries[: head.size if head else 0]]
                if head is not None and (len(leaves) < head.size or root_of(leaves) != head.root):
                    gate.is_diverted = True
        return "mended"

    def backup(self) -> Path:
        """Copy the database as it is."""
        self.flush()
        self.numbers += 1
        return Path(shutil.copy(self.root / "control.db", self.root / f"backup-{self.numbers}.db"))

    def flush(self) -> None:
        """Close and open the database, so that its file is all of it."""
        self.deployment.store.close()
        for rest in self.root.glob("control.db-*"):
            assert rest.stat().st_size == 0 or rest.suffix == ".db-shm", f"{rest.name} was left behind"
        self.deployment = self.opened(self.root / "control.db")

    def _put_in_place(self, database: Path) -> None:
        self.deployment.store.close()
        for rest in self.root.glob("control.db-*"):
            rest.unlink()
        shutil.copy(database, self.root / "control.db")
        self.deployment = self.opened(self.root / "control.db")
