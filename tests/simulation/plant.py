"""A whole deployment without processes: the real control plane on a real database, and several real gateways' plans.

What a process boundary does is played: gateways hear nothing until they are delivered to, the control plane may be
killed inside a transaction or come back on an old database, and whoever stole the plan key runs a second one. After
every act ``check`` compares everything with a model that shares no code with the rules.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store import counters as counter_rows
from controlplane.store import outcomes, rollouts
from controlplane.store import pairs as pair_rows
from controlplane.store import samples as sample_rows
from controlplane.store.artifacts import Artifacts
from controlplane.store.sealed import opened_by
from controlplane.store.store import Store, Unit
from controlplane.store.vault import Vault
from protos import capture_pb2, decide_pb2, traffic_pb2
from protos import control_pb2 as pb
from protos.contract.attestation import Approval, sign_approval
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json, digest_bytes, digest_json
from protos.contract.draws import pseudonym
from protos.contract.plan import Split
from tests.gateway.serving.plans import PEOPLE, key
from tests.simulation import gates
from tests.simulation.gates import NAME, PLAN_KEY, Gate

START_MS = 1_000_000_000_000
APPROVERS = ("ann", "bob", "eve")
STAGES = (500, 2_000)
ENOUGH = 90  # pairs, or requests an arm, that a gate needs here
TASK = load_pack(NAME)
ZERO = "sha256:" + "0" * 64


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
            gates.start(self, gate)

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

    def flush(self) -> None:
        """Close and open the database, so that its file is all of it."""
        self.deployment.store.close()
        for rest in self.root.glob("control.db-*"):
            assert rest.stat().st_size == 0 or rest.suffix == ".db-shm", f"{rest.name} was left behind"
        self.deployment = self.opened(self.root / "control.db")

    def put_in_place(self, database: Path) -> None:
        self.deployment.store.close()
        for rest in self.root.glob("control.db-*"):
            rest.unlink()
        shutil.copy(database, self.root / "control.db")
        self.deployment = self.opened(self.root / "control.db")
