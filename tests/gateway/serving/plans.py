"""A gateway's plan without processes: real bundles, signatures and ledger, and engines that load all."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.metrics import Metrics
from gateway.serving.cache import DecisionCache
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.lanes import Lanes, LaneSettings
from gateway.serving.witness import Witness
from protos import traffic_pb2
from protos.contract.attestation import STATEMENT_TYPE as STATEMENT
from protos.contract.attestation import Approval, Operator, Operators, public_text, sign, sign_approval
from protos.contract.bundle import BundleStore
from protos.contract.memory_ledger import MemoryLedger
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import PlanRefused, no_split_digest, sign_plan, to_split_digest
from protos.contract.rollback import RollbackOrder
from tests.tasks import TASK

NOW = 1_000_000
DIGEST = "sha256:" + "0" * 64
STAGES = (500, 2_000)


class LoadsAll:
    """An engine pool that has whatever it is asked for."""

    preloads: tuple[str, ...] = ()

    def holding(self, bundles: set[str]) -> nullcontext[None]:
        return nullcontext()

    async def load(self, bundle: str) -> None:
        await asyncio.sleep(0)

    def want(self, bundle: str) -> None: ...

    def capabilities(self, bundle: str) -> None: ...

    def keep_only(self, bundles: set[str]) -> None: ...


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])


def person(name: str, *roles: str) -> Operator:
    return Operator(name, roles or ("approver",), (public_text(key(name).public_key()),))


PEOPLE = Operators(
    1,
    2,
    (
        person("ann"),
        person("bob"),
        person("eve"),
        person("oli", "operator"),
        person("own", "owner"),
        person("won", "owner"),
    ),
    required_owners=2,
)


@dataclass
class Site:
    """One gateway and the control plane it hears."""

    root: Path
    people: Operators = PEOPLE
    now: float = NOW
    plan_key: Ed25519PrivateKey = field(default_factory=lambda: key("plan"))
    approvals: list[traffic_pb2.Envelope] = field(default_factory=list)
    generation: int = 0
    steps: list[traffic_pb2.Envelope] = field(default_factory=list)  # plans the gateway did not hear of

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger("test")
        self.store = BundleStore(self.root / "bundles")
        self.metrics = Metrics()
        self.plan = self.started()
        self.old, self.new = self.bundle(1), self.bundle(2)

    def started(self) -> CurrentPlan:
        """Build the gateway's plan anew, as a restart does; ``restore`` is the caller's."""
        lanes = Lanes(LaneSettings(), 256)
        witness = Witness(
            "test", self.plan_key.public_key(), gateway_id="g", own_key=key("gateway"), clock=lambda: self.now
        )
        return CurrentPlan(
            deployment="test",
            key=self.plan_key.public_key(),
            operators=lambda: self.people,
            store=self.store,
            pool=LoadsAll(),  # type: ignore[arg-type]
            lanes=lanes,
            cache=DecisionCache(0),
            state_dir=self.root / "state",
            metrics=self.metrics,
            witness=witness,
            clock=lambda: self.now,
        )

    def restarted(self) -> CurrentPlan:
        """Restart the gateway with everything else away."""
        self.plan = self.started()
        asyncio.run(self.plan.restore())
        return self.plan

    def bundle(self, seed: int, author: str = "trainer") -> str:
        engine = {"backend": "simulator", "seed": seed}
        return self.store.add(task=TASK, engine=engine, contents={}, base={}, lineage={"author": author}).digest

    def split(self, **changes: Any) -> Split:
        return replace(Split("brand", self.old, None, None, 0, 0, 100, 0, "r-0"), **changes)

    def in_force(self) -> Split:
        assert self.plan.routes is not None
        found = self.plan.routes.plan.split_for("brand")
        assert found is not None
        return found

    def approve(
        self,
        target: Split,
        bundle: str,
        *people: str,
        ceiling_bp: int = 10_000,
        before: Split | None = None,
        **changes: Any,
    ) -> None:
        """Have people sign an approval of a change from a split, else from the one in force."""
        if before is None and self.plan.routes:
            before = self.in_force()
        for name in people:
            made = Approval(
                person=name,
                specialist="brand",
                rollout=target.salt,
                step="canary",
                bundle=bundle,
                evidence=DIGEST,
                suite=DIGEST,
                from_split=no_split_digest("brand") if before is None else before.shape_digest(),
                to_split=to_split_digest(target, ceiling_bp),
                ceiling_bp=ceiling_bp,
                audience="test",
                not_before=int(self.now),
                expires=int(self.now) + 3_600,
                nonce=f"{name}-{len(self.approvals)}",
                author="trainer",
                reason="reviewed",
            )
            self.approvals.append(sign_approval(replace(made, **changes), key(name)))

    def offer_of(self, *splits: Split, generation: int | None = None) -> traffic_pb2.PlanOffer:
        """Sign a plan with every approval so far, recorded and proved."""
        self.generation = generation if generation is not None else self.generation + 1
        plan = TrafficPlan("test", self.generation, int(self.now), splits, ())
        offer = traffic_pb2.PlanOffer(plan=sign_plan(plan, self.plan_key), approvals=self.approvals, steps=self.steps)
        return self.ledger.prove(offer, self.plan_key)

    def missed(self, *splits: Split) -> None:
        """Publish a plan while the gateway is away."""
        shown = self.ledger.shown
        self.steps.append(self.offer_of(*splits).plan)
        self.ledger.shown = shown

    def said(self, offer: traffic_pb2.PlanOffer) -> str:
        """Offer anything; return the reason for a refusal, or "applied"."""
        try:
            asyncio.run(self.plan.offer(offer))
        except PlanRefused as refused:
            return refused.reason
        return "applied"

    def publish(self, *splits: Split, generation: int | None = None) -> str:
        """Offer a plan honestly made."""
        return self.said(self.offer_of(*splits, generation=generation))

    def bootstrapped(self) -> "Site":
        """Put the old bundle in place, approved."""
        first = self.split()
        self.approve(first, self.old, "ann", "bob")
        assert self.publish(first) == "applied"
        return self

    def shadowed(self) -> "Site":
        """Let the new bundle watch."""
        self.bootstrapped()
        assert self.publish(self.split(candidate=self.new, shadow_bp=5_000, salt="r-1")) == "applied"
        return self

    def canary(self, weight: int = 500) -> Split:
        return replace(self.in_force(), canary_bp=weight)

    def canaried(self) -> "Site":
        """Let the new bundle answer a little, approved by two."""
        self.shadowed()
        self.approve(self.in_force(), self.new, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
        assert self.publish(self.canary()) == "applied"
        return self

    def promoted(self) -> "Site":
        """Make the new bundle the primary, approved by two."""
        self.canaried()
        target = self.split(primary=self.new, previous=self.old, salt="r-1")
        self.approve(target, self.new, "ann", "bob", step="primary")
        assert self.publish(target) == "applied"
        return self

    def order(self, bundle: str, by: str = "oli", **changes: Any) -> traffic_pb2.Envelope:
        """Sign an order to leave a bundle."""
        now = int(self.now)
        made = RollbackOrder(by, "brand", bundle, "test", now, now + 600, f"n-{now}", "it is wrong")
        return sign(replace(made, **changes).payload(), STATEMENT, key(by))
