"""Take note of what a person did at a gateway while this process was away, and follow it."""

from dataclasses import replace
from typing import Any

import structlog

from controlplane.domain.rollout import LEGAL_MOVES, Phase
from controlplane.errors import StepRefused
from controlplane.loop import advance
from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import standing_split
from controlplane.store import records, rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos import traffic_pb2
from protos.contract.attestation import AttestationInvalid
from protos.contract.digest import digest_bytes
from protos.contract.rollback import RollbackOrder, leave, order_summary, verify_order

log = structlog.get_logger()


def reconcile(unit: Unit, deployment: Deployment, gateway: str, made: traffic_pb2.LocalRollback) -> bool:
    """Record a rollback made at a gateway, once, and roll back everywhere the rollout that lets its bundle answer.

    A gateway's word alone moves nothing: the order is signed by a person and checked again here. One whose signer may
    not give it now, such as by a key revoked since, is recorded as not followed; what the gateway left stays left
    there. Where the way back cannot be published now, nothing is recorded and the gateway's next report asks again.

    Returns:
        Whether the ledger has it, so that the gateway need not say it again.
    """
    digest = digest_bytes(made.order.payload)
    if records.seq_of(unit, digest) is not None:
        return True
    try:
        order = RollbackOrder.from_payload(made.order.payload)
    except ValueError as error:
        log.warning("rollback_unreadable", gateway=gateway, error=str(error))
        return False
    try:
        verify_order(made.order, deployment.operators(), deployment.name, None)
    except AttestationInvalid as error:
        log.warning("rollback_not_believed", gateway=gateway, reason=error.reason, error=str(error))
        detail = {**_detail(order, gateway, made), "refused": error.reason}
        records.note(unit, digest, unit.record(gateway, "rollback.not_followed", detail))
        return True
    try:
        with unit.connection.begin_nested():
            _follow(unit, deployment, gateway, made, order)
    except StepRefused as refused:
        log.warning("rollback_not_followed", gateway=gateway, rollout=made.salt, reason=str(refused))
        return False
    return True


def _detail(order: RollbackOrder, gateway: str, made: traffic_pb2.LocalRollback) -> dict[str, Any]:
    return {
        **order_summary(order),
        "rollout": made.salt,
        "gateway": gateway,
        "at_ms": made.at_unix_ms,
        "took_us": made.took_us,
        "generation": made.generation,
    }


def _follow(
    unit: Unit, deployment: Deployment, gateway: str, made: traffic_pb2.LocalRollback, order: RollbackOrder
) -> None:
    seq = unit.record(order.person, "rollback.local", _detail(order, gateway, made))
    records.note(unit, order.digest, seq)
    log.warning("rolled_back_locally", gateway=gateway, specialist=order.specialist, took_us=made.took_us)
    split, row = standing_split(unit, order.specialist), _about(unit, order, made)
    if row is None or split is None or leave(split, order.bundle) is None:
        return
    row = advance.end(unit, deployment, row.state.id, Phase.ROLLED_BACK, order.person, order.reason)
    took_ms = max(1, round(made.took_us / 1000))
    # From the order to the swap at the gateway; the plan that follows changes nothing there.
    rollouts.save(unit, replace(row, failed_ms=None, rollback_ms=took_ms))


def _about(unit: Unit, order: RollbackOrder, made: traffic_pb2.LocalRollback) -> RolloutRow | None:
    """Return the rollout that lets the bundle answer, unless people began it after the order."""
    for row in reversed(rollouts.listed(unit, order.specialist)):
        if row.state.candidate == order.bundle and Phase.ROLLED_BACK in LEGAL_MOVES[row.state.phase]:
            return row if row.state.id == made.salt or row.started_ms <= made.at_unix_ms else None
    return None
