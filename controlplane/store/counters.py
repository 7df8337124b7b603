"""What gateways counted since they started, by rollout: requests of each arm, copies for the shadow."""

from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from controlplane.store.store import Unit
from controlplane.store.tables import arm_counter, shadow_counter
from protos import traffic_pb2

_FORGET = [
    delete(table).where(table.c.gateway == bindparam("of"), table.c.run == bindparam("since"))
    for table in (arm_counter, shadow_counter)
]


def shadow_counts(unit: Unit, specialist: str, salt: str) -> list[Any]:
    """Return (offered, sent, paired, drops) of a rollout's shadow, one row per start of a gateway."""
    query = select(
        shadow_counter.c.offered, shadow_counter.c.sent, shadow_counter.c.paired, shadow_counter.c.drops
    ).where(shadow_counter.c.specialist == specialist, shadow_counter.c.salt == salt)
    return list(unit.connection.execute(query))


def keep(unit: Unit, report: traffic_pb2.GatewayReport) -> None:
    """Replace a gateway's counters since its start by newer ones."""
    for forget in _FORGET:
        unit.connection.execute(forget, {"of": report.gateway_id, "since": report.run_id})
    shadows = [
        {
            "gateway": report.gateway_id,
            "run": report.run_id,
            "specialist": shadow.specialist,
            "salt": shadow.salt,
            "candidate": shadow.candidate_digest,
            "offered": shadow.offered,
            "sent": shadow.sent,
            "paired": shadow.paired,
            "drops": dict(shadow.drops),
        }
        for shadow in report.shadows
    ]
    if shadows:
        unit.connection.execute(insert(shadow_counter), shadows)
    rows = [
        {
            "gateway": report.gateway_id,
            "run": report.run_id,
            "specialist": arm.specialist,
            "salt": arm.salt,
            "arm": int(arm.arm),
            "bundle": arm.bundle_digest,
            "requests": arm.requests,
            "errors": arm.errors,
            "fallbacks": dict(arm.fallbacks),
            "in_time": arm.in_time,
            "latency": list(arm.latency_counts),
        }
        for arm in report.arms
    ]
    if rows:
        unit.connection.execute(insert(arm_counter), rows)


def arm_counts(unit: Unit, specialist: str, salt: str) -> dict[str, dict[str, int]]:
    """Add up requests, unanswered (errors and fallbacks) and late ones of a rollout, by arm number as text."""
    found: dict[str, dict[str, int]] = {}
    for row in arm_rows(unit, specialist, salt):
        arm = found.setdefault(str(row.arm), {"requests": 0, "unanswered": 0, "late": 0})
        arm["requests"] += row.requests
        arm["unanswered"] += row.errors + sum(row.fallbacks.values())
        arm["late"] += row.requests - row.in_time
    return found


def arm_rows(unit: Unit, specialist: str, salt: str) -> list[Any]:
    """Return a rollout's counters, one row per arm, bundle and start of a gateway."""
    query = select(arm_counter).where(arm_counter.c.specialist == specialist, arm_counter.c.salt == salt)
    return list(unit.connection.execute(query.order_by(arm_counter.c.arm)))
