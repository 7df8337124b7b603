"""What really happened, by decision: told late, twice, out of order or in contradiction, and kept as one row."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, and_, bindparam, case, delete, select, update

from controlplane.store.bulk import insert_rows
from controlplane.store.store import Unit
from controlplane.store.tables import outcome, sample

_MOST = 500  # decisions looked up at once: SQLite's limit on variables is far above


class Delay(NamedTuple):
    """One decision: when it was made, when its outcome first came (None: not yet), the answer and the truth."""

    at_ms: int
    received_ms: int | None
    answer: str
    truth: str | None


def add(unit: Unit, said: Sequence[dict[str, Any]]) -> None:
    """Join what was said of decisions; the order in which it arrives changes nothing.

    The label in force is the one observed last, then received last. Every label ever said is counted:
    more than one of them is a contradiction, which a person may want to look at.

    Args:
        said: Dicts of specialist, decision_id, label, source, observed_ms, received_ms.
    """
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in said:
        key = (row["specialist"], row["decision_id"])
        told = row | {"first_ms": row["received_ms"], "said": {row["label"]: 1}}
        merged[key] = _joined(merged[key], told) if key in merged else told
    known: set[tuple[str, str]] = set()
    for found in _stored(unit, merged):
        key = (found["specialist"], found["decision_id"])
        known.add(key)
        merged[key] = _joined(dict(found), merged[key])
    fresh = [row for key, row in merged.items() if key not in known]
    changed = [{f"b_{k}": v for k, v in merged[key].items()} for key in known]
    insert_rows(unit.connection, outcome, [row | {"said": json.dumps(row["said"])} for row in fresh])
    if changed:
        names = ("label", "source", "observed_ms", "received_ms", "first_ms", "said")
        unit.connection.execute(
            update(outcome)
            .where(
                outcome.c.specialist == bindparam("b_specialist"), outcome.c.decision_id == bindparam("b_decision_id")
            )
            .values({name: bindparam(f"b_{name}") for name in names}),
            changed,
        )


def withdraw(unit: Unit, specialist: str, decisions: Iterable[str], source: str) -> None:
    """Forget outcomes that a source no longer vouches for; what another said last stays."""
    unit.connection.execute(
        delete(outcome).where(
            outcome.c.specialist == specialist, outcome.c.source == source, outcome.c.decision_id.in_(list(decisions))
        )
    )


def _stored(unit: Unit, keys: Iterable[tuple[str, str]]) -> Iterator[RowMapping]:
    """Return what is kept of decisions, by the primary key's own order of columns: else every row is looked at."""
    decisions: dict[str, list[str]] = {}
    for specialist, decision in keys:
        decisions.setdefault(specialist, []).append(decision)
    for specialist, names in decisions.items():
        for at in range(0, len(names), _MOST):
            part = names[at : at + _MOST]
            query = select(outcome).where(outcome.c.specialist == specialist, outcome.c.decision_id.in_(part))
            yield from unit.connection.execute(query).mappings()


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    last = max(first, second, key=lambda row: (row["observed_ms"], row["received_ms"], row["label"], row["source"]))
    counts = {
        label: first["said"].get(label, 0) + second["said"].get(label, 0)
        for label in sorted({*first["said"], *second["said"]})
    }
    return last | {"first_ms": min(first["first_ms"], second["first_ms"]), "said": counts}


def is_of(table: Any) -> Any:
    """Return the condition that joins a table of decisions with their outcomes."""
    return and_(outcome.c.specialist == table.c.specialist, outcome.c.decision_id == table.c.decision_id)


def is_matured(at_ms: Any, due_ms: int | None) -> Any:
    """Return the column ``matured``: 1 for decisions made up to ``due_ms``, which is None where nobody can say."""
    return case((at_ms <= (-1 if due_ms is None else due_ms), 1), else_=0).label("matured")


def delays(unit: Unit, specialist: str, limit: int) -> list[Delay]:
    """Return the newest decisions with when their outcome first came, newest first."""
    query = (
        select(sample.c.at_ms, outcome.c.first_ms, sample.c.label, outcome.c.label.label("truth"))
        .outerjoin(outcome, is_of(sample))
        .where(sample.c.specialist == specialist)
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return [Delay(*row) for row in unit.connection.execute(query)]


def contradicted(unit: Unit, specialist: str, limit: int) -> list[Any]:
    """Return decisions of which different things were said, the newest first, at most ``limit``."""
    query = (
        select(outcome)
        .where(outcome.c.specialist == specialist)
        .order_by(outcome.c.received_ms.desc())
        .limit(50 * limit)
    )
    return [row for row in unit.connection.execute(query) if len(row.said) > 1][:limit]


def weighted(unit: Unit, specialist: str, before_ms: int, limit: int) -> list[Any]:
    """Return the newest decisions made before a moment (decision, answer, truth or None, inclusion), newest first."""
    query = (
        select(sample.c.decision, sample.c.label.label("answer"), outcome.c.label.label("truth"), sample.c.inclusion)
        .outerjoin(outcome, is_of(sample))
        .where(sample.c.specialist == specialist, sample.c.at_ms <= before_ms)
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return list(unit.connection.execute(query))
