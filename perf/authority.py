"""Who a gateway under test or measurement believes: a control plane's key, one approver, a ledger."""

import time
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos import traffic_pb2
from protos.contract.attestation import Approval, Operator, Operators, public_text, sign_approval
from protos.contract.memory_ledger import MemoryLedger
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import no_split_digest, sign_plan, to_split_digest

PERSON = "ann"
ZERO = "sha256:" + "0" * 64


class Authority:
    """Signs approvals and plans of one deployment, and records them."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.key = Ed25519PrivateKey.generate()
        self.approver = Ed25519PrivateKey.generate()
        self.ledger = MemoryLedger(deployment)

    def operators(self) -> Operators:
        """List the one person whose approval is enough."""
        return Operators(1, 1, (Operator(PERSON, ("approver",), (public_text(self.approver.public_key()),)),))

    def approval(
        self, split: Split, bundle: str, *, before: Split | None = None, ceiling_bp: int = 10_000, **changes: Any
    ) -> traffic_pb2.Envelope:
        """Sign that a bundle may have traffic in a split, where ``before`` was in force."""
        approval = Approval(
            person=PERSON,
            specialist=split.specialist,
            rollout=split.salt,
            step="canary",
            bundle=bundle,
            evidence=ZERO,
            suite=ZERO,
            from_split=before.shape_digest() if before else no_split_digest(split.specialist),
            to_split=to_split_digest(split, ceiling_bp),
            ceiling_bp=ceiling_bp,
            audience=self.deployment,
            not_before=0,
            expires=2**40,
            nonce="n",
            author="trainer",
            reason="test",
        )
        return sign_approval(replace(approval, **changes), self.approver)

    def plan(self, generation: int, splits: tuple[Split, ...]) -> TrafficPlan:
        """Make a plan now."""
        return TrafficPlan(self.deployment, generation, int(time.time()), splits, ())

    def offer(
        self, plan: TrafficPlan, approvals: list[traffic_pb2.Envelope], key: Ed25519PrivateKey | None = None
    ) -> traffic_pb2.PlanOffer:
        """Sign a plan, record it with its approvals, and prove so; another key is a forger's."""
        offer = traffic_pb2.PlanOffer(plan=sign_plan(plan, key or self.key), approvals=approvals)
        return self.ledger.prove(offer, self.key)
