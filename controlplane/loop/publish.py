"""Offer a plan; note what gateways say of it."""

from dataclasses import replace

import structlog

from controlplane.errors import StepRefused
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import plans, rollouts
from controlplane.store.plans import APPLIED, REFUSED, PlanRow
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.digest import digest_bytes
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import PlanRefused, check_approvals, check_plan, sign_plan

log = structlog.get_logger()


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
    operators = deployment.operators()
    try:
        check_plan(before, made, check_approvals(envelopes, operators), operators, deployment.name, unit.now_ms // 1000)
    except PlanRefused as refused:
        raise StepRefused(f"{refused.reason}: {refused}") from refused
    signed = sign_plan(made, deployment.key)
    plans.add(unit, signed, made, rollout)
    unit.record(
        LOOP,
        "plan.offered",
        {"generation": made.generation, "digest": made.digest, "rollout": rollout, "approvals": list(made.approvals)},
    )
    return made


def offer_of(unit: Unit, row: PlanRow) -> traffic_pb2.PlanOffer:
    """Return a plan with every approval of a bundle in it. A row made by others is offered as it is."""
    try:
        approvals = plans.approvals_for(unit, row.plan)
    except ValueError:
        approvals = []
    return traffic_pb2.PlanOffer(plan=row.envelope, approvals=approvals)


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
        plans.settle(unit, row.generation, state, said.reason, said.message)
        unit.record(said.gateway_id, "plan.refused", {**detail, "reason": said.reason, "message": said.message})
        log.warning("plan_refused", generation=row.generation, gateway=said.gateway_id, reason=said.reason)


def _time_rollback(unit: Unit, row: PlanRow) -> None:
    """Measure a rollback from the failing reading to the last gateway that took it."""
    found = None if row.rollout is None else rollouts.get(unit, row.rollout)
    split = None if found is None else row.plan.split_for(found.state.specialist)
    if found is None or split is None or found.failed_ms is None or split.candidate is not None:
        return
    rollouts.save(unit, replace(found, rollback_ms=max(0, unit.now_ms - found.failed_ms)))
