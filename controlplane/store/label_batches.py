"""A source's labels of one day, and whether they may be trained on."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import and_, delete, insert, not_, select, update

from controlplane.store.outcomes import is_of
from controlplane.store.store import Unit
from controlplane.store.tables import label_batch, outcome, sample

OTHERS = "(others)"  # the sources of one day that reported too few labels each to be judged alone


class Batch(NamedTuple):
    """One batch as judged; ``labels`` counts every word on a decision, also a later one to the contrary."""

    specialist: str
    source: str
    day: str
    labels: int
    unlearnable: float
    expected: float
    state: str
    at_ms: int  # when it was judged


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


def labelled(unit: Unit, specialist: str, limit: int, *, before: str = "") -> list[Any]:
    """Return the newest labelled samples (text, label, source, received_ms, said), oldest of them first.

    Args:
        before: Only labels of days before this one, and none that are held back.
    """
    where = [sample.c.specialist == specialist, sample.c.text != ""]
    if before:
        where += [outcome.c.received_ms < _of_day(before)[0], *not_held_back(unit, specialist)]
    query = (
        select(sample.c.text, outcome.c.label, outcome.c.source, outcome.c.received_ms, outcome.c.said)
        .join(outcome, is_of(sample))
        .where(*where)
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return [row for row in reversed(unit.connection.execute(query).all()) if row.text]  # the others are erased


def not_held_back(unit: Unit, specialist: str) -> list[Any]:
    """Return the conditions that leave out labels of a source's day that are held back."""
    query = select(label_batch.c.source, label_batch.c.day).where(
        label_batch.c.specialist == specialist, label_batch.c.state == "flagged"
    )
    return [
        not_(and_(_is_from(specialist, batch), outcome.c.received_ms.between(*_of_day(batch.day))))
        for batch in unit.connection.execute(query)
    ]


def _is_from(specialist: str, batch: Any) -> Any:
    """Return the condition that an outcome is from a batch's source, or from one that no batch of that day is of."""
    if batch.source != OTHERS:
        return outcome.c.source == batch.source
    alone = select(label_batch.c.source).where(label_batch.c.specialist == specialist, label_batch.c.day == batch.day)
    return outcome.c.source.not_in(alone)


def _of_day(day: str) -> tuple[int, int]:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return int(1000 * start.timestamp()), int(1000 * (start + timedelta(days=1)).timestamp()) - 1
