"""Plans, the approvals they rest on, and what gateways said of them."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from controlplane.store.store import Unit
from controlplane.store.tables import acknowledgement, approval, gateway, plan
from protos import traffic_pb2
from protos.contract.digest import digest_bytes, parse_json_object
from protos.contract.plan import TrafficPlan

OFFERED, APPLIED, REFUSED, SUPERSEDED = "offered", "applied", "refused", "superseded"

# Asked at every report of every gateway and every step of a rollout: putting them together costs as much as asking.
_STANDING = select(plan).where(plan.c.state != REFUSED).order_by(plan.c.generation.desc()).limit(1)
_LAST = select(func.max(plan.c.generation))
_AFTER = select(plan).where(plan.c.generation > bindparam("at")).order_by(plan.c.generation)
_GET = select(plan).where(plan.c.generation == bindparam("at"))
_BY_DIGEST = select(plan).where(plan.c.digest == bindparam("of"))
_APPROVALS = select(approval.c.envelope).where(approval.c.rollout == bindparam("of")).order_by(approval.c.received_ms)
_ACKNOWLEDGEMENTS = select(acknowledgement).where(acknowledgement.c.generation == bindparam("at"))
_GENERATION_OF = select(gateway.c.generation).where(gateway.c.id == bindparam("name"))
_SEE = update(gateway).where(gateway.c.id == bindparam("name"))
_SEE_WELL = _SEE.values(generation=bindparam("at"), seen_ms=bindparam("now_ms"))
_SEE_REFUSING = _SEE_WELL.values(refusals=gateway.c.refusals + 1, last_refusal=bindparam("refusal"))


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One plan as it was offered, and what became of it."""

    generation: int
    digest: str
    envelope: traffic_pb2.Envelope
    state: str
    reason: str
    message: str
    created_ms: int
    settled_ms: int | None
    rollout: str | None

    @property
    def plan(self) -> TrafficPlan:
        """Read the signed bytes; raises FieldInvalid, DigestMalformed or JsonMalformed for a row made by others."""
        return TrafficPlan.from_json(parse_json_object(self.envelope.payload))


def _row(found: Any) -> PlanRow:
    values = dict(found._mapping)
    values["envelope"] = traffic_pb2.Envelope.FromString(values["envelope"])
    return PlanRow(**values)


def add(unit: Unit, signed: traffic_pb2.Envelope, made: TrafficPlan, rollout: str | None) -> None:
    """Offer a plan, and set aside those that no gateway has settled yet."""
    unit.connection.execute(
        update(plan).where(plan.c.state == OFFERED).values(state=SUPERSEDED, settled_ms=unit.now_ms)
    )
    unit.connection.execute(
        insert(plan).values(
            generation=made.generation,
            digest=digest_bytes(signed.payload),
            envelope=signed.SerializeToString(deterministic=True),
            state=OFFERED,
            created_ms=unit.now_ms,
            rollout=rollout,
        )
    )


def standing(unit: Unit) -> PlanRow | None:
    """Return the newest plan that no gateway has refused: what the next one starts from."""
    found = unit.connection.execute(_STANDING).first()
    return None if found is None else _row(found)


def last_generation(unit: Unit) -> int:
    """Return the highest generation ever offered, refused ones included; 0 without any."""
    return int(unit.connection.execute(_LAST).scalar() or 0)


def after(unit: Unit, generation: int) -> list[PlanRow]:
    """Return plans above a generation, oldest first."""
    return [_row(found) for found in unit.connection.execute(_AFTER, {"at": generation})]


def between(unit: Unit, generation: int, before: int, most: int) -> list[PlanRow]:
    """Return the newest plans between two generations that no gateway refused, oldest first."""
    query = (
        select(plan)
        .where(plan.c.generation > generation, plan.c.generation < before, plan.c.state != REFUSED)
        .order_by(plan.c.generation.desc())
        .limit(most)
    )
    return [_row(found) for found in unit.connection.execute(query)][::-1]


def generation_of(unit: Unit, gateway_id: str) -> int:
    """Return the plan that a gateway was last known to be on; 0 for none."""
    return int(unit.connection.execute(_GENERATION_OF, {"name": gateway_id}).scalar() or 0)


def with_state(unit: Unit, state: str) -> list[PlanRow]:
    """Return plans in a state, oldest first."""
    query = select(plan).where(plan.c.state == state).order_by(plan.c.generation)
    return [_row(found) for found in unit.connection.execute(query)]


def get(unit: Unit, generation: int) -> PlanRow | None:
    """Return one plan."""
    found = unit.connection.execute(_GET, {"at": generation}).first()
    return None if found is None else _row(found)


def last_of(unit: Unit, rollout: str) -> PlanRow | None:
    """Return the newest plan that was a step of a rollout."""
    query = select(plan).where(plan.c.rollout == rollout).order_by(plan.c.generation.desc()).limit(1)
    found = unit.connection.execute(query).first()
    return None if found is None else _row(found)


def settle(unit: Unit, generation: int, state: str, reason: str = "", message: str = "") -> None:
    """Note what became of a plan. One that is refused gives its place back to the one it set aside."""
    unit.connection.execute(
        update(plan)
        .where(plan.c.generation == generation)
        .values(state=state, reason=reason, message=message, settled_ms=unit.now_ms)
    )
    if state == REFUSED and (before := standing(unit)) is not None and before.state == SUPERSEDED:
        unit.connection.execute(
            update(plan).where(plan.c.generation == before.generation).values(state=OFFERED, settled_ms=None)
        )


def add_approval(
    unit: Unit, digest: str, rollout: str, specialist: str, bundle: str, signed: traffic_pb2.Envelope
) -> bool:
    """Keep a verified approval; return whether it was new."""
    values = {
        "digest": digest,
        "rollout": rollout,
        "specialist": specialist,
        "bundle": bundle,
        "envelope": signed.SerializeToString(deterministic=True),
        "received_ms": unit.now_ms,
    }
    try:
        with unit.connection.begin_nested():
            unit.connection.execute(insert(approval).values(values))
    except IntegrityError:
        return False
    return True


def approvals_of(unit: Unit, rollout: str) -> list[traffic_pb2.Envelope]:
    """Return the approvals of one rollout, oldest first."""
    found = unit.connection.execute(_APPROVALS, {"of": rollout})
    return [traffic_pb2.Envelope.FromString(data) for (data,) in found]


def approvals_for(unit: Unit, *made: TrafficPlan) -> list[traffic_pb2.Envelope]:
    """Return every approval of a bundle that one of these plans may let answer."""
    wanted = [
        (approval.c.specialist == split.specialist)
        & approval.c.bundle.in_([b for b in (split.primary, split.candidate, split.previous) if b])
        for plan_made in made
        for split in plan_made.splits
    ]
    if not wanted:
        return []
    query = select(approval.c.envelope).where(or_(*wanted)).order_by(approval.c.received_ms, approval.c.digest)
    return [traffic_pb2.Envelope.FromString(data) for (data,) in unit.connection.execute(query)]


def acknowledge(unit: Unit, said: traffic_pb2.Acknowledgement, generation: int) -> bool:
    """Keep what a gateway said of a plan; return whether it is news."""
    known = unit.connection.execute(
        select(acknowledgement.c.applied).where(
            acknowledgement.c.gateway == said.gateway_id, acknowledgement.c.plan_digest == said.plan_digest
        )
    ).scalar()
    if known is not None and bool(known) == said.applied:
        return False
    values = {
        "generation": generation,
        "applied": said.applied,
        "reason": said.reason[:60],
        "message": said.message[:2000],
        "at_ms": unit.now_ms,
        "apply_ms": said.apply_ms,
    }
    if known is None:
        key = {"gateway": said.gateway_id, "plan_digest": said.plan_digest}
        unit.connection.execute(insert(acknowledgement).values(**key, **values))
    else:
        unit.connection.execute(
            update(acknowledgement)
            .where(acknowledgement.c.gateway == said.gateway_id, acknowledgement.c.plan_digest == said.plan_digest)
            .values(values)
        )
    return True


def acknowledgements(unit: Unit, generation: int) -> list[dict[str, Any]]:
    """Return what gateways said of one plan."""
    return [dict(found._mapping) for found in unit.connection.execute(_ACKNOWLEDGEMENTS, {"at": generation})]


def by_digest(unit: Unit, digest: str) -> PlanRow | None:
    """Return the plan whose signed bytes have this digest."""
    found = unit.connection.execute(_BY_DIGEST, {"of": digest}).first()
    return None if found is None else _row(found)


def see_gateway(unit: Unit, name: str, generation: int, refusal: str = "") -> None:
    """Note that a gateway was heard of, which plan it is on, and what it refused."""
    values = {"name": name, "at": generation, "now_ms": unit.now_ms}
    if refusal:
        seen = unit.connection.execute(_SEE_REFUSING, {**values, "refusal": refusal})
    else:
        seen = unit.connection.execute(_SEE_WELL, values)
    if not seen.rowcount:
        new = {"id": name, "generation": generation, "seen_ms": unit.now_ms}
        unit.connection.execute(
            insert(gateway).values({**new, "refusals": int(bool(refusal)), "last_refusal": refusal})
        )


def gateways(unit: Unit) -> list[Any]:
    """Return every gateway ever heard of."""
    return list(unit.connection.execute(select(gateway).order_by(gateway.c.id)))
