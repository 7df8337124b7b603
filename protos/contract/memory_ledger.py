"""A ledger that lives in memory: enough for a gateway of a trial or a benchmark to believe its plans."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos import traffic_pb2
from protos.contract.checkpoint import sign_checkpoint
from protos.contract.digest import canonical_json, digest_bytes
from protos.contract.ledger_proof import APPROVAL_GIVEN, PLAN_OFFERED, SUBJECT, ledger_origin
from protos.contract.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of, subtree_root_of


@dataclass
class MemoryLedger:
    """Records what is offered and proves it. One gateway at a time: each offer continues the one before."""

    deployment: str
    bodies: list[bytes] = field(default_factory=list)
    seqs: dict[str, int] = field(default_factory=dict)
    shown: int = 0

    def record(self, action: str, digest: str) -> int:
        """Write an entry about a signed thing, once, and return its number."""
        if digest not in self.seqs:
            seq = self.seqs[digest] = len(self.bodies)
            self.bodies.append(canonical_json({"seq": seq, "action": action, "detail": {SUBJECT[action]: digest}}))
        return self.seqs[digest]

    def prove(self, offer: traffic_pb2.PlanOffer, key: Ed25519PrivateKey) -> traffic_pb2.PlanOffer:
        """Record an offer and add what a gateway asks to see; returns the offer."""
        wanted = [self.record(APPROVAL_GIVEN, digest_bytes(e.payload)) for e in offer.approvals]
        wanted += [self.record(PLAN_OFFERED, digest_bytes(e.payload)) for e in (*offer.steps, offer.plan)]
        leaves = [leaf_hash(body) for body in self.bodies]
        subtree, size = subtree_root_of(leaves), len(leaves)
        offer.checkpoint = sign_checkpoint(ledger_origin(self.deployment), size, root_of(leaves), key)
        if 0 < self.shown < size:
            offer.consistent_from = self.shown
            offer.consistency.extend(consistency_proof(self.shown, size, subtree))
        for seq in sorted(set(wanted)):
            offer.records.add(seq=seq, body=self.bodies[seq], hashes=inclusion_proof(seq, size, subtree))
        self.shown = size
        return offer
