"""A deployment without processes: real store, real files, a clock that a test turns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.loop.deployment import Deployment
from controlplane.loop.embedding import HashedWords
from controlplane.loop.publish import publish
from controlplane.packs.registry import load_pack
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store import plans, records
from controlplane.store.artifacts import Artifacts
from controlplane.store.store import Store
from controlplane.store.vault import Vault
from protos import capture_pb2, decide_pb2
from protos.contract.attestation import (
    Approval,
    Operator,
    Operators,
    generate_key,
    public_text,
    read_private,
    sign_approval,
)
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json, digest_bytes
from protos.contract.ledger_proof import APPROVAL_GIVEN
from protos.contract.plan import Split
from protos.contract.plan_rules import no_split_digest, to_split_digest
from protos.contract.segment import SegmentWriter

NAME = "brand-safety"
ZERO = "sha256:" + "0" * 64


@dataclass
class Clock:
    now_ms: int = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class World:
    root: Path
    deployment: Deployment
    clock: Clock
    numbers: dict[str, int] = field(default_factory=dict)

    def bundle(self, seed: int = 0, author: str = "trainer") -> str:
        manifest = self.deployment.bundles.add(
            task=self.deployment.pack(NAME).task,
            engine={"backend": "simulator", "seed": seed},
            contents={},
            base={},
            lineage={"author": author},
        )
        return manifest.digest

    def first_plan(self, bundle: str) -> Split:
        """Publish an approved first plan and take a gateway's word that it is applied."""
        split = Split(NAME, bundle, None, None, 0, 0, 10_000, 0, "r-0")
        approval = Approval(
            person="ann",
            specialist=NAME,
            rollout="r-0",
            step="bootstrap",
            bundle=bundle,
            evidence=ZERO,
            suite=ZERO,
            from_split=no_split_digest(NAME),
            to_split=to_split_digest(split, 10_000),
            ceiling_bp=10_000,
            audience="test",
            not_before=0,
            expires=2**40,
            nonce="n",
            author="trainer",
            reason="test",
        )
        signed = sign_approval(approval, read_private(self.root / "ann.key"))
        with self.deployment.store.writing(self.clock()) as unit:
            digest = digest_bytes(signed.payload)
            plans.add_approval(unit, digest, "r-0", NAME, bundle, signed)
            records.note(unit, digest, unit.record("ann", APPROVAL_GIVEN, {"statement": digest}))
            made = publish(unit, self.deployment, split, None)
            plans.settle(unit, made.generation, plans.APPLIED)
        return split

    def capture(self, records: list[capture_pb2.CaptureRecord], name: str = "000000000000001-run-000000.seg") -> Path:
        path = self.root / "capture" / name
        writer = SegmentWriter(path)
        writer.append(records)
        writer.close()
        return path

    def sample(
        self, text: str, *, bundle: str, arm: int = 1, score: float = 0.1, label: str = "safe", **answer: Any
    ) -> Any:
        number = self.numbers["sample"] = self.numbers.get("sample", 0) + 1
        return capture_pb2.CaptureRecord(
            sample=capture_pb2.Sample(
                decision_id=f"d-{number}",
                specialist=NAME,
                input=decide_pb2.Input(text=text),
                answer=decide_pb2.DecideResponse(
                    decision="allow",
                    label=label,
                    score=score,
                    arm=arm,
                    bundle_digest=bundle,
                    plan_generation=1,
                    **answer,
                ),
                at_unix_ms=self.clock(),
                salt="r-0",
            )
        )


def outcome(number: int, label: str) -> capture_pb2.CaptureRecord:
    return capture_pb2.CaptureRecord(
        outcome=capture_pb2.Outcome(decision_id=f"d-{number}", specialist=NAME, label=label, source="test")
    )


def world(root: Path, **settings: Any) -> World:
    """Open the deployment in a folder, which may have been opened before."""
    for name in ("plan.key", "ann.key"):
        if not (root / name).exists():
            generate_key(root / name)
    key = public_text(read_private(root / "ann.key").public_key())
    operators = Operators(1, 1, (Operator("ann", ("approver",), (key,)),))
    (root / "operators.json").write_bytes(canonical_json(operators.to_json()))
    clock = Clock()
    value = {
        "deployment": "test",
        "bundles_dir": "bundles",
        "capture_dir": "capture",
        "operators": "operators.json",
        "plan_key": "plan.key",
        "specialists": [{"pack": NAME}],
        **settings,
    }
    vault = Vault(root / "capture.keys")
    made = Deployment(
        settings=ControlSettings.from_json(value, root),
        store=Store(f"sqlite:///{root / 'control.db'}", vault),
        artifacts=Artifacts(root / "artifacts", vault),
        bundles=BundleStore(root / "bundles"),
        key=read_private(root / "plan.key"),
        packs={NAME: load_pack(NAME)},
        sources={NAME: SpecialistSettings(NAME, None, None)},
        clock=clock,
        embedder=HashedWords(),
        opener=None,
        changed=lambda: None,
    )
    return World(root, made, clock)
