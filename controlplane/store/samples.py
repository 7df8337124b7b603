"""Answered requests that gateways recorded, joined with what turned out to be true of them."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    LargeBinary,
    delete,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    type_coerce,
    update,
)

from controlplane.store.bulk import insert_values
from controlplane.store.label_batches import not_held_back
from controlplane.store.outcomes import is_matured, is_of
from controlplane.store.store import Unit
from controlplane.store.tables import outcome, sample, shadow_pair
from controlplane.store.vault import KeyId, day_of

BY_RATE = "rate"
SEALED = type_coerce(sample.c.text, LargeBinary).label("sealed_text")  # as it is stored, to be kept elsewhere
SLACK = 20  # what is beyond the bound is found by counting, and forgotten once it is this part of it
_OLDEST_FIRST: tuple[tuple[Any, tuple[Any, ...]], ...] = (
    (sample, (sample.c.id,)),
    (shadow_pair, (shadow_pair.c.id,)),
    (outcome, (outcome.c.received_ms, outcome.c.decision_id)),
)
MAIN_ARMS = (1, 2)  # decide.v1 ARM_PRIMARY and ARM_BASELINE: what the primary answered


class Sample(NamedTuple):
    """One answered request, with the columns of its row; what callers sent is in the clear."""

    specialist: str
    decision_id: str
    salt: str
    arm: int
    bundle: str
    generation: int
    text: str
    decision: str
    score: float
    at_ms: int
    fields: Mapping[str, Any] | None = None
    subject: str = ""
    input_digest: str = ""
    probabilities: Sequence[float] = ()
    reasons: Sequence[tuple[str, float]] = ()
    label: str = ""
    confidence: float = 0.0
    fallback: bool = False
    inclusion: float = 1.0
    drawn_for: str = BY_RATE


def add(unit: Unit, rows: Sequence[Sample]) -> None:
    """Keep samples, what callers sent sealed."""
    if not rows:
        return
    columns: Any = Sample(*zip(*rows, strict=True))
    names = list(map(KeyId, columns.specialist, map(day_of, columns.at_ms), columns.subject))
    values = columns._replace(
        text=_sealed(unit, names, [text.encode() for text in columns.text]),
        fields=_sealed(unit, names, [json.dumps(given).encode() if given else b"" for given in columns.fields]),
        probabilities=map(_numbers_as_json, columns.probabilities),
        reasons=[json.dumps(found) if found else "[]" for found in columns.reasons],
        fallback=map(int, columns.fallback),  # so with truth values
    )
    insert_values(unit.connection, sample, Sample._fields, zip(*values, strict=True))


def _sealed(unit: Unit, names: Sequence[KeyId], parts: Sequence[bytes]) -> list[bytearray]:
    """Seal what there is; nothing stays nothing. Byte arrays, which SQLite's driver binds at once."""
    sealed = iter(unit.vault.seal([(name, part) for name, part in zip(names, parts, strict=True) if part]))
    nothing = bytearray()
    return [bytearray(next(sealed)) if part else nothing for part in parts]


def _numbers_as_json(numbers: Sequence[float]) -> str:
    text = f"[{', '.join(map(repr, numbers))}]"
    return json.dumps(list(numbers)) if "n" in text else text  # as JSON writes what is not a number


def salts(unit: Unit, specialist: str) -> set[str]:
    """Return the salts under which callers of a specialist have pseudonyms."""
    query = select(sample.c.salt).where(sample.c.specialist == specialist).distinct()
    return {str(row.salt) for row in unit.connection.execute(query)}


def forget_subjects(unit: Unit, specialist: str, subjects: Collection[str] | None) -> None:
    """Forget which samples are of these subjects, or of whom any is, and what their inputs hashed to."""
    where = [sample.c.specialist == specialist]
    if subjects is not None:
        where.append(sample.c.subject.in_(list(subjects)))
    unit.connection.execute(update(sample).where(*where).values(subject="", input_digest=""))


def prune(unit: Unit, specialist: str, keep: int) -> None:
    """Forget the oldest samples, pairs and outcomes beyond ``keep`` of each, once they are a twentieth more."""
    for table, order in _OLDEST_FIRST:
        rows = select(func.count()).select_from(table).where(table.c.specialist == specialist)
        excess = int(unit.connection.execute(rows).scalar() or 0) - keep
        if excess <= keep // SLACK:
            continue
        # From the old end, which is nearer: only so many rows are sorted.
        query = select(*order).where(table.c.specialist == specialist).order_by(*order).offset(excess - 1).limit(1)
        edge = unit.connection.execute(query).one()
        # Many outcomes may have come at the same moment: then the decision's id decides.
        is_beyond = order[0] <= edge[0] if len(order) == 1 else tuple_(*order) <= tuple_(*map(literal, edge))
        unit.connection.execute(delete(table).where(table.c.specialist == specialist, is_beyond))


def count(unit: Unit, specialist: str) -> tuple[int, int]:
    """Return the numbers of samples and outcomes kept."""
    samples = select(func.count()).select_from(sample).where(sample.c.specialist == specialist)
    outcomes = select(func.count()).select_from(outcome).where(outcome.c.specialist == specialist)
    return int(unit.connection.execute(samples).scalar() or 0), int(unit.connection.execute(outcomes).scalar() or 0)


def outcomes_since(unit: Unit, specialist: str, since_ms: int) -> int:
    """Count outcomes that were received after a moment."""
    query = select(func.count()).select_from(outcome)
    query = query.where(outcome.c.specialist == specialist, outcome.c.received_ms > since_ms)
    return int(unit.connection.execute(query).scalar() or 0)


def of_primary(unit: Unit, specialist: str, bundle: str, after_id: int, limit: int) -> list[Any]:
    """Return what a bundle answered as primary, oldest first; fallbacks are not its answers.

    Rows are (id, text, fields, decision, label, score, confidence, at_ms, outcome); the outcome is None while
    unknown. Only requests drawn by rate: the others were recorded for being unlike the rest.
    """
    query = _primary(specialist, bundle).where(sample.c.id > after_id).order_by(sample.c.id).limit(limit)
    return list(unit.connection.execute(query))


def matured(unit: Unit, specialist: str, bundle: str, before_ms: int, after_id: int, limit: int) -> list[Any]:
    """Return the newest such rows that were answered before a moment, oldest of them first."""
    query = (
        _primary(specialist, bundle)
        .where(sample.c.id > after_id, sample.c.at_ms <= before_ms)
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return list(reversed(unit.connection.execute(query).all()))


def between(unit: Unit, specialist: str, bundle: str, first_id: int, last_id: int) -> list[Any]:
    """Return such rows of a stretch, oldest first."""
    query = _primary(specialist, bundle).where(sample.c.id.between(first_id, last_id)).order_by(sample.c.id)
    return list(unit.connection.execute(query))


def _primary(specialist: str, bundle: str) -> Any:
    names = ("id", "text", "fields", "decision", "label", "score", "confidence", "at_ms")
    return (
        select(*(sample.c[name] for name in names), SEALED, outcome.c.label.label("outcome"))
        .outerjoin(outcome, is_of(sample))
        .where(
            sample.c.specialist == specialist,
            sample.c.bundle == bundle,
            sample.c.arm.in_(MAIN_ARMS),
            sample.c.fallback.is_(False),
            sample.c.drawn_for == BY_RATE,
        )
    )


def labelled(unit: Unit, specialist: str, after_id: int, limit: int) -> list[Any]:
    """Return the newest samples (text, label) whose outcome is known, newest first, a text once.

    Labels of a source's day that are held back are not among them.
    """
    query = (
        select(sample.c.text, outcome.c.label)
        .join(outcome, is_of(sample))
        .where(sample.c.specialist == specialist, sample.c.id > after_id, sample.c.text != "")
        .where(*not_held_back(unit, specialist))
        .order_by(sample.c.id.desc())
    )
    newest: dict[str, Any] = {}
    for row in unit.connection.execute(query):
        if row.text:
            newest.setdefault(row.text, row)  # callers may have disagreed about a text: the last word counts
        if len(newest) == limit:
            break
    return list(newest.values())


def labelled_cases(unit: Unit, specialist: str, limit: int) -> list[Any]:
    """Return the newest samples with a known outcome, newest first, a text once.

    Rows are (id, decision_id, text, label, answered, at_ms): the truth, what the engine answered, when it did. Labels
    that are held back are not among them.
    """
    columns = (sample.c.id, sample.c.decision_id, sample.c.text, outcome.c.label, sample.c.label.label("answered"))
    query = (
        select(*columns, sample.c.at_ms, SEALED)
        .join(outcome, is_of(sample))
        .where(sample.c.specialist == specialist, sample.c.text != "", *not_held_back(unit, specialist))
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    newest: dict[str, Any] = {}
    for row in unit.connection.execute(query):
        if row.text:  # else it was erased
            newest.setdefault(row.text, row)
    return list(newest.values())


def arm_decisions(unit: Unit, specialist: str, salt: str, generation: int, due_ms: int | None) -> list[Any]:
    """Count (arm, decision, true label, matured, n) over one stage's samples with a known outcome.

    A stage is a rollout's salt from the plan generation that began it. Fallbacks count: they are
    what the arm did to its callers. Samples recorded for standing out do not: one arm may have more of them.

    Args:
        due_ms: Decisions made up to then are matured; None: nobody can say of any.
    """
    matured = is_matured(sample.c.at_ms, due_ms)
    query = (
        select(sample.c.arm, sample.c.decision, outcome.c.label, matured, func.count().label("n"))
        .join(outcome, is_of(sample))
        .where(
            sample.c.specialist == specialist,
            sample.c.salt == salt,
            sample.c.generation >= generation,
            sample.c.drawn_for == BY_RATE,
        )
        .group_by(sample.c.arm, sample.c.decision, outcome.c.label, literal_column("matured"))
    )
    return list(unit.connection.execute(query))


def bundle_decisions(unit: Unit, specialist: str, bundle: str) -> list[Any]:
    """Count (arm, decision, true label, n) over samples of one assigned bundle with a known outcome."""
    query = (
        select(sample.c.arm, sample.c.decision, outcome.c.label, func.count().label("n"))
        .join(outcome, is_of(sample))
        .where(sample.c.specialist == specialist, sample.c.bundle == bundle, sample.c.drawn_for == BY_RATE)
        .group_by(sample.c.arm, sample.c.decision, outcome.c.label)
    )
    return list(unit.connection.execute(query))


def answers_with_outcome(unit: Unit, specialist: str, bundle: str, limit: int) -> list[Any]:
    """Return a bundle's newest answers (label, confidence, outcome) whose outcome is known, drawn by rate."""
    query = (
        select(sample.c.label, sample.c.confidence, outcome.c.label.label("outcome"))
        .join(outcome, is_of(sample))
        .where(
            sample.c.specialist == specialist,
            sample.c.bundle == bundle,
            sample.c.fallback.is_(False),
            sample.c.drawn_for == BY_RATE,
        )
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return list(unit.connection.execute(query))


def decision(unit: Unit, decision_id: str, specialist: str = "") -> tuple[Any, Any] | None:
    """Return the newest sample of a decision and its outcome or None; None where nothing of it was kept."""
    query = select(sample, SEALED).where(sample.c.decision_id == decision_id).order_by(sample.c.id.desc())
    if specialist:
        query = query.where(sample.c.specialist == specialist)
    row = unit.connection.execute(query).first()
    if row is None:
        return None
    same = (outcome.c.specialist == row.specialist) & (outcome.c.decision_id == decision_id)
    return row, unit.connection.execute(select(outcome).where(same)).first()
