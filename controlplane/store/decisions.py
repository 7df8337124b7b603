"""Why retrainings did or did not start."""

from typing import Any

from sqlalchemy import insert, select

from controlplane.store.store import Unit
from controlplane.store.tables import retrain_decision


def latest(unit: Unit, specialist: str, trigger: str) -> Any:
    """Return the last decision about a trigger, or None."""
    query = select(retrain_decision).where(
        retrain_decision.c.specialist == specialist, retrain_decision.c.trigger == trigger
    )
    return unit.connection.execute(query.order_by(retrain_decision.c.id.desc()).limit(1)).first()


def add(unit: Unit, values: dict[str, Any]) -> None:
    """Keep a decision: specialist, trigger, code, reason and job."""
    unit.connection.execute(insert(retrain_decision).values(at_ms=unit.now_ms, **values))


def listed(unit: Unit, specialist: str = "") -> list[Any]:
    """Return decisions, of one specialist or all, oldest first."""
    query = select(retrain_decision).order_by(retrain_decision.c.id)
    return list(
        unit.connection.execute(query.where(retrain_decision.c.specialist == specialist) if specialist else query)
    )
