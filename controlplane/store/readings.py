"""Drift: what windows are compared with, and what each of them said."""

from typing import Any

from sqlalchemy import insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import drift_reading, drift_reference


def reference(unit: Unit, specialist: str, bundle: str) -> Any:
    """Return the reference window of a primary, or None."""
    query = select(drift_reference).where(
        drift_reference.c.specialist == specialist, drift_reference.c.bundle == bundle
    )
    return unit.connection.execute(query).first()


def add_reference(unit: Unit, values: dict[str, Any]) -> None:
    """Keep a reference window and its thresholds."""
    unit.connection.execute(insert(drift_reference).values(made_ms=unit.now_ms, **values))


def set_reference(unit: Unit, specialist: str, bundle: str, values: dict[str, Any]) -> None:
    """Replace parts of a reference: what was learned of it, and the evidence since."""
    where = (drift_reference.c.specialist == specialist) & (drift_reference.c.bundle == bundle)
    unit.connection.execute(update(drift_reference).where(where).values(values))


def add(unit: Unit, values: dict[str, Any]) -> None:
    """Keep one drift reading."""
    unit.connection.execute(insert(drift_reading).values(at_ms=unit.now_ms, **values))


def newest(unit: Unit, specialist: str = "", bundle: str = "", signal: str = "", limit: int = 200) -> list[Any]:
    """Return the newest drift readings, oldest of them first."""
    query = select(drift_reading).order_by(drift_reading.c.id.desc()).limit(limit)
    for column, wanted in (
        (drift_reading.c.specialist, specialist),
        (drift_reading.c.bundle, bundle),
        (drift_reading.c.signal, signal),
    ):
        if wanted:
            query = query.where(column == wanted)
    return list(reversed(unit.connection.execute(query).all()))


def newest_windows(unit: Unit, specialist: str, bundle: str, windows: int) -> list[Any]:
    """Return every signal's readings of a primary's newest windows, oldest first."""
    where = (drift_reading.c.specialist == specialist) & (drift_reading.c.bundle == bundle)
    last = drift_reading.c.last_sample
    ends = select(last).where(where).distinct().order_by(last.desc()).limit(windows).subquery()
    query = select(drift_reading).where(where, last.in_(select(ends.c.last_sample))).order_by(drift_reading.c.id)
    return list(unit.connection.execute(query))
