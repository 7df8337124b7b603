"""Why one decision came out as it did, from everything that was kept about it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controlplane.domain.explanation import Weighed, weigh
from controlplane.errors import NotFound
from controlplane.loop.deployment import Deployment
from controlplane.store import plans, records, samples
from controlplane.store.store import Unit
from protos.contract.attestation import Approval
from protos.contract.bundle import BundleInvalid
from protos.contract.fields import FieldInvalid
from protos.contract.head import HEAD, Head

ARMS = {1: "primary", 2: "baseline", 3: "canary", 4: "shadow", 5: "holdback"}


class UnknownDecision(NotFound):
    """No decision of that id was captured, or it is older than what is kept."""

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"decision is {decision_id!r}, expected one that was captured and is still kept")


@dataclass(frozen=True, slots=True)
class Explained:
    """One decision with what it rested on; ``weighed`` is None where it was a fallback or the bundle is gone."""

    row: Any
    plan_digest: str
    ledger_seq: int
    approved_by: tuple[str, ...]
    decisions: tuple[str, ...]
    weighed: Weighed | None
    outcome: Any


def explain(unit: Unit, deployment: Deployment, decision_id: str, specialist: str) -> Explained:
    """Gather what is known of a decision; raises UnknownDecision or UnknownSpecialist."""
    if specialist:
        deployment.pack(specialist)
    found = samples.decision(unit, decision_id, specialist)
    if found is None:
        raise UnknownDecision(decision_id)
    row, happened = found
    plan = plans.get(unit, row.generation)
    approvals = []
    if plan is not None:
        signed = [Approval.from_statement(e.payload) for e in plans.approvals_for(unit, plan.plan)]
        approvals = [a for a in signed if a.bundle == row.bundle and a.digest in plan.plan.approvals]
    return Explained(
        row=row,
        plan_digest=plan.digest if plan is not None else "",
        ledger_seq=(records.seq_of(unit, plan.digest) or 0) if plan is not None else 0,
        approved_by=tuple(sorted({a.person for a in approvals})),
        decisions=deployment.pack(row.specialist).task.decisions,
        weighed=None if row.fallback else _weighed(deployment, row),
        outcome=happened,
    )


def _weighed(deployment: Deployment, row: Any) -> Weighed | None:
    """Weigh the decision as its engine did: by the task and the head that its bundle carries."""
    try:
        manifest = deployment.bundles.manifest(row.bundle)
        head = Head()
        if HEAD in manifest.files:
            head = Head.from_bytes(deployment.bundles.read(row.bundle, HEAD), manifest.task)
    except (BundleInvalid, FieldInvalid):
        return None
    return weigh(manifest.task, head.offsets, row.probabilities, row.decision)


def at(ms: int | None) -> str:
    """Write Unix milliseconds as a time."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
