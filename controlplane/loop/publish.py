"""Offer a plan; note what gateways say of it."""

import contextlib
from dataclasses import replace
from typing import Any

import structlog

from controlplane.errors import StepRefused
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import ledger, plans, records, rollouts
from controlplane.store.plans import APPLIED, REFUSED, PlanRow
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.attestation import Operators
from protos.contract.bundle import BundleInvalid
from protos.contract.digest import digest_bytes
from protos.contract.ledger_proof import PLAN_OFFERED
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import PlanRefused, check_approvals, check_plan, sign_plan

log = structlog.get_logger()
MOST_STEPS = 200  # plans that a gateway may have missed
AWAY_MS = 10_000  # a gateway reports twice a second; one that was silent for so long holds nothing up


def standing_split(unit: Unit, specialist: str) -> Split | None:
    """Return a specialist's split in the newest plan that no gateway refused."""
    row = plans.standing(unit)
    return None if row is None else row.plan.split_for(specialist)


def publish(unit: Unit, deployment: Deployment, split: Split, rollout: str | None) -> TrafficPlan:
    """Sign the standing plan with one split replaced, and offer it.

    Raises:
        StepRefused: The rules every gateway applies would refuse it.
    """
    row = plans.standing(unit)
    before = None if row is None else row.plan
    others = [s for s in (before.splits if before else ()) if s.specialist != split.specialist]
    made = TrafficPlan(
        deployment=deployment.name,
        generation=plans.last_generation(unit) + 1,
        created_at=unit.now_ms // 1000,
        splits=tuple(sorted([*others, split], key=lambda s: s.specialist)),
        approvals=(),
    )
    envelopes = plans.approvals_for(unit, made)
    made = replace(made, approvals=tuple(sorted({digest_bytes(e.payload) for e in envelopes})))
    try:
        check(unit, deployment, before, made, envelopes, deployment.operators())
    except PlanRefused as refused:
        raise StepRefused(f"{refused.reason}: {refused}") from refused
    signed = sign_plan(made, deployment.key)
    plans.add(unit, signed, made, rollout)
    seq = unit.record(
        LOOP,
        PLAN_OFFERED,
        {"generation": made.generation, "digest": made.digest, "rollout": rollout, "approvals": list(made.approvals)},
    )
    records.note(unit, made.digest, seq)
    # Gateways take a plan only under a signed head, so there is one for every plan.
    ledger.checkpoint(unit.connection, deployment.key, deployment.ledger_origin)
    return made


def check(
    unit: Unit,
    deployment: Deployment,
    before: TrafficPlan | None,
    made: TrafficPlan,
    envelopes: list[traffic_pb2.Envelope],
    operators: Operators,
    *,
    was_in_force: bool = False,
) -> None:
    """Return when a plan may follow another by the rules every gateway applies; raises PlanRefused."""
    known = records.seqs(unit, {digest_bytes(e.payload) for e in envelopes})
    check_plan(
        before,
        made,
        check_approvals(envelopes, operators, known),
        operators,
        deployment.name,
        unit.now_ms // 1000,
        was_in_force=was_in_force,
        author_of=lambda bundle: author_of(deployment, bundle),
    )


def author_of(deployment: Deployment, bundle: str) -> str | None:
    """Return who made a bundle, by the bundle itself."""
    try:
        author = deployment.bundles.manifest(bundle).lineage.get("author")
    except BundleInvalid:
        return None
    return author if isinstance(author, str) else None


def offer_of(
    unit: Unit, deployment: Deployment, row: PlanRow, seen: int, operators_version: int, held: int = 0
) -> tuple[int, Any]:
    """Return the size of the ledger head offered, and a plan with all it rests on.

    A row made by others is offered as it is: what the gateway says of it is worth knowing.

    Args:
        seen: Size of the highest head the gateway holds; 0 for none.
        operators_version: Of the list of people that the gateway goes by.
        held: Generation in force at the gateway; what it missed since comes as steps. 0: it missed nothing.
    """
    missed = plans.between(unit, held, row.generation, MOST_STEPS) if held else []
    approvals = plans.approvals_for(unit, *_read([*missed, row]))
    offer = traffic_pb2.PlanOffer(plan=row.envelope, approvals=approvals, steps=[step.envelope for step in missed])
    offer.operators.extend(deployment.operators_above(operators_version))
    stored = ledger.stored_checkpoint(unit.connection)
    if stored is None:
        return seen, offer
    size, offer.checkpoint = stored
    if 0 < seen < size:
        offer.consistent_from = seen
        offer.consistency.extend(ledger.prove_consistency(unit.connection, seen, size))
    signed = [row.digest, *(step.digest for step in missed), *(digest_bytes(e.payload) for e in approvals)]
    known = records.seqs(unit, signed)
    for proof in ledger.prove(unit.connection, sorted({seq for seq in known.values() if seq < size}), size):
        offer.records.add(seq=proof.seq, body=proof.body, hashes=proof.hashes)
    return max(seen, size), offer


def _read(rows: list[PlanRow]) -> list[TrafficPlan]:
    """Return the plans that can be read: a row may have been made by others."""
    found = []
    for row in rows:
        with contextlib.suppress(ValueError):
            found.append(row.plan)
    return found


def acknowledged(unit: Unit, said: traffic_pb2.Acknowledgement) -> None:
    """Keep a gateway's word on a plan; repeating it changes nothing."""
    row = plans.by_digest(unit, said.plan_digest)
    refusal = "" if said.applied else f"{said.reason}: {said.message}"
    if row is None:
        plans.see_gateway(unit, said.gateway_id, said.generation_in_force, refusal)
        log.warning("acknowledged_unknown_plan", gateway=said.gateway_id, digest=said.plan_digest)
        return
    if not plans.acknowledge(unit, said, row.generation):
        return
    plans.see_gateway(unit, said.gateway_id, said.generation_in_force, refusal)
    words = plans.acknowledgements(unit, row.generation)
    state = APPLIED if any(word["applied"] for word in words) else REFUSED
    detail = {"generation": row.generation, "digest": row.digest, "gateway": said.gateway_id, "rollout": row.rollout}
    if said.applied:
        plans.settle(unit, row.generation, state)
        unit.record(said.gateway_id, "plan.applied", {**detail, "apply_ms": said.apply_ms})
        _time_rollback(unit, row)
    else:
        if state == APPLIED or _is_refused_by_all(unit, row.generation):
            plans.settle(unit, row.generation, state, said.reason, said.message)
        unit.record(said.gateway_id, "plan.refused", {**detail, "reason": said.reason, "message": said.message})
        log.warning("plan_refused", generation=row.generation, gateway=said.gateway_id, reason=said.reason)


def found_applied(unit: Unit, gateway: str, digest: str) -> None:
    """Take back that a plan was refused, where a gateway turns out to be on it: its word of that was lost."""
    row = plans.by_digest(unit, digest)
    if row is not None and row.state == REFUSED:
        said = traffic_pb2.Acknowledgement(gateway_id=gateway, plan_digest=digest, applied=True)
        said.generation_in_force = row.generation
        acknowledged(unit, said)


def settle_refused(unit: Unit) -> None:
    """Give up the newest plan once every gateway that is there has refused it; one of them alone keeps it from none."""
    row = plans.get(unit, plans.last_generation(unit))
    words = [] if row is None or row.state != plans.OFFERED else plans.acknowledgements(unit, row.generation)
    if row is not None and words and _is_refused_by_all(unit, row.generation):
        plans.settle(unit, row.generation, REFUSED, words[-1]["reason"], words[-1]["message"])


def _is_refused_by_all(unit: Unit, generation: int) -> bool:
    words = plans.acknowledgements(unit, generation)
    refused = {word["gateway"] for word in words if not word["applied"]}
    there = {gateway.id for gateway in plans.gateways(unit) if gateway.seen_ms >= unit.now_ms - AWAY_MS}
    return len(refused) == len(words) and there <= refused


def _time_rollback(unit: Unit, row: PlanRow) -> None:
    """Measure a rollback from the failing reading to the last gateway that took it."""
    found = None if row.rollout is None else rollouts.get(unit, row.rollout)
    split = None if found is None else row.plan.split_for(found.state.specialist)
    if found is None or split is None or found.failed_ms is None or split.candidate is not None:
        return
    rollouts.save(unit, replace(found, rollback_ms=max(0, unit.now_ms - found.failed_ms)))
