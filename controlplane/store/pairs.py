"""Shadow pairs: the same request answered by a primary and by the candidate that only watches."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, literal_column, select

from controlplane.store.bulk import insert_rows
from controlplane.store.outcomes import is_matured, is_of
from controlplane.store.store import Unit
from controlplane.store.tables import outcome, shadow_pair


def add(unit: Unit, rows: Sequence[dict[str, Any]]) -> None:
    """Keep shadow pairs."""
    insert_rows(unit.connection, shadow_pair, rows)


def disagreements(unit: Unit, specialist: str, limit: int) -> dict[str, tuple[str, str]]:
    """Return the newest shadow pairs that differ, by decision: what the primary and what the candidate decided."""
    query = (
        select(shadow_pair.c.decision_id, shadow_pair.c.primary_decision, shadow_pair.c.candidate_decision)
        .where(
            shadow_pair.c.specialist == specialist,
            shadow_pair.c.failure == "",
            shadow_pair.c.primary_fallback.is_(False),
            shadow_pair.c.primary_decision != shadow_pair.c.candidate_decision,
        )
        .order_by(shadow_pair.c.id.desc())
        .limit(limit)
    )
    found: dict[str, tuple[str, str]] = {}
    for row in unit.connection.execute(query):
        found.setdefault(row.decision_id, (row.primary_decision, row.candidate_decision))
    return found


def decisions(unit: Unit, salt: str, since_ms: int, due_ms: int | None) -> list[Any]:
    """Count (primary decision, candidate decision, in time, true label or None, matured, n) over a stage's pairs.

    Args:
        due_ms: As in ``samples.arm_decisions``.
    """
    matured = is_matured(shadow_pair.c.at_ms, due_ms)
    columns = (shadow_pair.c.primary_decision, shadow_pair.c.candidate_decision, shadow_pair.c.in_time, outcome.c.label)
    query = (
        select(*columns, matured, func.count().label("n"))
        .outerjoin(outcome, is_of(shadow_pair))
        .where(shadow_pair.c.salt == salt, shadow_pair.c.at_ms >= since_ms)
        .group_by(*columns, literal_column("matured"))
    )
    return list(unit.connection.execute(query))


def details(unit: Unit, salt: str, since_ms: int, limit: int) -> list[Any]:
    """Return a stage's newest shadow pairs with their outcome's label or None, newest first."""
    query = (
        select(shadow_pair, outcome.c.label)
        .outerjoin(outcome, is_of(shadow_pair))
        .where(shadow_pair.c.salt == salt, shadow_pair.c.at_ms >= since_ms)
        .order_by(shadow_pair.c.id.desc())
        .limit(limit)
    )
    return list(unit.connection.execute(query))
