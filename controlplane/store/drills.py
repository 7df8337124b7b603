"""Rehearsals of the way back: which plan took a candidate out, and how long the gateways took."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Integer, String, Table, insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import metadata

drill = Table(
    "drill",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),  # of the plan that took it out
    Column("rollout", String(200), nullable=False, index=True),
    Column("person", String(200), nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("took_ms", Integer),  # empty: not over, or cut short
    Column("gateways", JSON, nullable=False, default=list),
)


def begin(unit: Unit, rollout: str, generation: int, person: str) -> None:
    """Note that a drill has begun."""
    values = {"generation": generation, "rollout": rollout, "person": person, "started_ms": unit.now_ms}
    unit.connection.execute(insert(drill).values(gateways=[], **values))


def finish(unit: Unit, generation: int, took_ms: int, gateways: list[str]) -> None:
    """Note how long it took and whose word that is."""
    unit.connection.execute(
        update(drill).where(drill.c.generation == generation).values(took_ms=took_ms, gateways=gateways)
    )


def of_rollout(unit: Unit, rollout: str) -> list[Any]:
    """Return a rollout's drills, oldest first, those that were cut short included."""
    return list(unit.connection.execute(select(drill).where(drill.c.rollout == rollout).order_by(drill.c.generation)))
