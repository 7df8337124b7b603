"""Sketch windows as rows: one a specialist, arm and stretch of time, whatever gateway its requests went through."""

from typing import Any

from sqlalchemy import delete, insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import sketch_window


def get(unit: Unit, specialist: str, arm: int, start_ms: int) -> bytes | None:
    """Return a window's bytes, or None."""
    query = select(sketch_window.c.body).where(
        sketch_window.c.specialist == specialist, sketch_window.c.arm == arm, sketch_window.c.start_ms == start_ms
    )
    found: bytes | None = unit.connection.execute(query).scalar()
    return found


def put(unit: Unit, specialist: str, arm: int, start_ms: int, rows: int, body: bytes) -> None:
    """Keep a window, in place of what it was before."""
    key = {"specialist": specialist, "arm": arm, "start_ms": start_ms}
    where = (
        (sketch_window.c.specialist == specialist)
        & (sketch_window.c.arm == arm)
        & (sketch_window.c.start_ms == start_ms)
    )
    values = {"rows": rows, "body": body}
    if unit.connection.execute(update(sketch_window).where(where).values(values)).rowcount == 0:
        unit.connection.execute(insert(sketch_window).values(**key, **values))


def newest(unit: Unit, specialist: str, limit: int) -> list[Any]:
    """Return the newest windows (arm, start_ms, rows, body), oldest of them first."""
    query = (
        select(sketch_window)
        .where(sketch_window.c.specialist == specialist)
        .order_by(sketch_window.c.start_ms.desc(), sketch_window.c.arm)
        .limit(limit)
    )
    return list(reversed(unit.connection.execute(query).all()))


def forget_before(unit: Unit, start_ms: int) -> None:
    """Forget old windows."""
    unit.connection.execute(delete(sketch_window).where(sketch_window.c.start_ms < start_ms))
