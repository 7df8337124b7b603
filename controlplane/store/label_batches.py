"""A source's labels of one day, and whether they may be trained on."""

from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select, update

from controlplane.store.outcomes import is_of
from controlplane.store.store import Unit
from controlplane.store.tables import label_batch, outcome, sample


class Batch(NamedTuple):
    """One batch as judged."""

    specialist: str
    source: str
    day: str
    labels: int
    unlearnable: float
    expected: float
    state: str


def newest(unit: Unit, specialist: str, limit: int = 100) -> list[Batch]:
    """Return the newest batches, newest first."""
    columns = [label_batch.c[name] for name in Batch._fields]
    query = (
        select(*columns).where(label_batch.c.specialist == specialist).order_by(label_batch.c.day.desc()).limit(limit)
    )
    return [Batch(*row) for row in unit.connection.execute(query)]


def put(unit: Unit, values: dict[str, Any]) -> None:
    """Keep what was found of a batch, in place of what was found before."""
    key = [label_batch.c[name] == values[name] for name in ("specialist", "source", "day")]
    unit.connection.execute(delete(label_batch).where(*key))
    unit.connection.execute(insert(label_batch).values(at_ms=unit.now_ms, **values))


def set_state(unit: Unit, specialist: str, source: str, day: str, before: str, after: str) -> bool:
    """Move a batch from one state to another; return whether there was one."""
    where = (label_batch.c.specialist == specialist) & (label_batch.c.source == source) & (label_batch.c.day == day)
    changed = unit.connection.execute(
        update(label_batch).where(where, label_batch.c.state == before).values(state=after)
    )
    return changed.rowcount > 0


def labelled(unit: Unit, specialist: str, limit: int) -> list[Any]:
    """Return the newest labelled samples (text, label, source, received_ms), oldest of them first."""
    query = (
        select(sample.c.text, outcome.c.label, outcome.c.source, outcome.c.received_ms)
        .join(outcome, is_of(sample))
        .where(sample.c.specialist == specialist, sample.c.text != "")
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return [row for row in reversed(unit.connection.execute(query).all()) if row.text]  # the others are erased
