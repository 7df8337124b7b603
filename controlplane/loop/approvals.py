"""Which signed statements count for a rollout's next step, and the statement a person would sign for it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.domain.rollout import Approvals, Phase
from controlplane.errors import ApprovalRefused, StepRefused
from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import standing_split
from controlplane.store import ledger, plans, records
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.attestation import Approval, AttestationInvalid, Operators, verify_approval
from protos.contract.digest import digest_bytes
from protos.contract.draws import BASIS_POINTS
from protos.contract.plan import Split
from protos.contract.plan_rules import check_key, no_split_digest, to_split_digest

UNSIGNED = "draft"
LAST_S = 253_402_300_799  # the end of year 9999, beyond which there is no date


@dataclass(frozen=True, slots=True)
class NextStep:
    """The step of a rollout that a person may approve now: from which split to which, and how far."""

    name: str
    before: Split | None
    after: Split
    ceiling_bp: int
    stages_bp: tuple[int, ...] = (BASIS_POINTS,)

    def stages_up_to(self, ceiling_bp: int) -> tuple[int, ...]:
        """Return the weights that an approval up to a ceiling allows."""
        return tuple(stage for stage in self.stages_bp if stage <= ceiling_bp)

    @property
    def from_digest(self) -> str:
        """Name what is approved to be left."""
        return self.before.shape_digest() if self.before else no_split_digest(self.after.specialist)


def next_step(unit: Unit, deployment: Deployment, row: RolloutRow) -> NextStep | None:
    """Return what an approval would allow next; None when nothing waits for one."""
    state = row.state
    before = standing_split(unit, state.specialist)
    capture_bp = deployment.pack(state.specialist).task.capture_bp
    holdback_bp = deployment.settings.rollout.holdback_bp
    if state.phase is Phase.EVALUATED and state.primary is None:
        return NextStep(
            "bootstrap",
            before,
            Split(state.specialist, state.candidate, None, None, 0, 0, capture_bp, holdback_bp, state.id),
            BASIS_POINTS,
        )
    if before is None or before.candidate != state.candidate:
        return None
    if state.phase is Phase.CANARY and state.stage + 1 == len(state.stages_bp):
        after = Split(state.specialist, state.candidate, None, before.primary, 0, 0, capture_bp, holdback_bp, state.id)
        return NextStep("primary", before, after, BASIS_POINTS)
    if state.phase in (Phase.SHADOW, Phase.CANARY):
        return NextStep("canary", before, before, state.stages_bp[-1], state.stages_bp)
    return None


def check(unit: Unit, deployment: Deployment, row: RolloutRow, signed: traffic_pb2.Envelope) -> Approval:
    """Verify a statement and that it speaks of exactly a rollout's next step.

    Raises:
        ApprovalRefused: With the most specific reason found.
    """
    at = records.seq_of(unit, digest_bytes(signed.payload))
    # One that is new would become the ledger's next entry.
    at = ledger.head(unit.connection)[0] if at is None else at
    return _check(signed, deployment, row, next_step(unit, deployment, row), deployment.operators(), at)


def _check(
    signed: traffic_pb2.Envelope,
    deployment: Deployment,
    row: RolloutRow,
    step: NextStep | None,
    operators: Operators,
    at: int | None,
) -> Approval:
    try:
        approval = verify_approval(signed, operators)
        check_key(approval, operators, at)
    except AttestationInvalid as error:
        raise ApprovalRefused(error.reason, str(error)) from error
    if step is None:
        raise ApprovalRefused("approval_mismatch", f"rollout {row.state.id!r} waits for no approval")
    wanted = {
        "rollout": row.state.id,
        "specialist": row.state.specialist,
        "step": step.name,
        "bundle": row.state.candidate,
        "suite": row.suite,
        "from_split": step.from_digest,
        "to_split": to_split_digest(step.after, approval.ceiling_bp),
        "author": row.author,
        "stages_bp": step.stages_up_to(approval.ceiling_bp),
    }
    for name, value in wanted.items():
        if getattr(approval, name) != value:
            raise ApprovalRefused(
                "approval_mismatch", f"the statement's {name} is {getattr(approval, name)!r}, expected {value!r}"
            )
    if approval.evidence not in (row.evidence, *row.evidence_past):
        raise ApprovalRefused(
            "approval_mismatch", f"the statement's evidence is {approval.evidence!r}, expected {row.evidence!r}"
        )
    if approval.audience != deployment.name:
        raise ApprovalRefused(
            "wrong_audience", f"the statement is for {approval.audience!r}, expected {deployment.name!r}"
        )
    if approval.ceiling_bp > step.ceiling_bp:
        raise ApprovalRefused(
            "over_ceiling", f"the statement allows {approval.ceiling_bp} bp, this step goes to {step.ceiling_bp} bp"
        )
    now = deployment.clock() // 1000
    if now >= approval.expires:
        expired = datetime.fromtimestamp(approval.expires, UTC).isoformat()
        raise ApprovalRefused("approval_expired", f"the statement expired at {expired}")
    return approval


def given(unit: Unit, deployment: Deployment, row: RolloutRow) -> Approvals:
    """Say how far enough people have let the candidate go in its next step: by who they are and hold now."""
    step, operators = next_step(unit, deployment, row), deployment.operators()
    best: dict[str, Approval] = {}
    envelopes = {digest_bytes(signed.payload): signed for signed in plans.approvals_of(unit, row.state.id)}
    known = records.seqs(unit, envelopes)
    for digest, signed in envelopes.items():
        try:
            approval = _check(signed, deployment, row, step, operators, known.get(digest))
        except ApprovalRefused:
            continue  # of an earlier step, out of date by now, or of somebody who may approve no more
        if approval.person not in best or best[approval.person].ceiling_bp < approval.ceiling_bp:
            best[approval.person] = approval
    required = operators.required_approvals
    if len(best) < required:
        return Approvals()
    counted = sorted(best.values(), key=lambda a: -a.ceiling_bp)[:required]
    return Approvals(
        ceiling_bp=counted[-1].ceiling_bp,
        statements=tuple(sorted(a.digest for a in counted)),
        expires=datetime.fromtimestamp(min(LAST_S, *(a.expires for a in counted)), UTC),
    )


def draft(unit: Unit, deployment: Deployment, row: RolloutRow, ceiling_bp: int) -> tuple[NextStep, Approval]:
    """Return the statement a person would sign, with person, reason and validity left open.

    Raises:
        StepRefused: Nothing waits for an approval, or its evidence is not complete yet.
        ApprovalRefused: ``ceiling_bp`` is above the step's last stage.
    """
    step = next_step(unit, deployment, row)
    if step is None:
        raise StepRefused(f"rollout {row.state.id!r} is {row.state.phase.value}, nothing waits for an approval")
    if row.evidence is None:
        waits = row.waiting_for or "nobody has looked at its gates yet"
        raise StepRefused(f"rollout {row.state.id!r} has no evidence to approve yet: {waits}")
    ceiling = ceiling_bp or step.ceiling_bp
    if ceiling > step.ceiling_bp:
        raise ApprovalRefused("over_ceiling", f"ceiling_bp is {ceiling}, expected up to {step.ceiling_bp}")
    return step, Approval(
        person=UNSIGNED,
        specialist=row.state.specialist,
        rollout=row.state.id,
        step=step.name,
        bundle=row.state.candidate,
        evidence=row.evidence,
        suite=row.suite,
        from_split=step.from_digest,
        to_split=to_split_digest(step.after, ceiling),
        ceiling_bp=ceiling,
        audience=deployment.name,
        not_before=0,
        expires=0,
        nonce=UNSIGNED,
        author=row.author,
        reason=UNSIGNED,
        stages_bp=step.stages_up_to(ceiling),
    )
