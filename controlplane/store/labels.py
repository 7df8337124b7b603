"""Cases for people to label, and what they said."""

from typing import Any

from sqlalchemy import LargeBinary, exists, func, insert, or_, select, type_coerce, update

from controlplane.store.outcomes import is_of
from controlplane.store.store import Unit
from controlplane.store.tables import given_label, outcome, sample, shadow_pair

LOOKED_AT = 2_000  # newest samples without an outcome: what is asked about should be about today's traffic


def candidates(unit: Unit, specialist: str, person: str, source: str) -> list[Any]:
    """Return samples without an outcome, or with one that a single other person gave, newest first.

    Args:
        source: Of the outcomes that people's labels become.
    Returns:
        Rows of (decision_id, text, decision, score, fallback, disagrees, labels).
    """
    pair = exists().where(
        shadow_pair.c.specialist == sample.c.specialist,
        shadow_pair.c.decision_id == sample.c.decision_id,
        shadow_pair.c.candidate_decision != "",
        shadow_pair.c.candidate_decision != shadow_pair.c.primary_decision,
    )
    mine = exists().where(
        given_label.c.specialist == sample.c.specialist,
        given_label.c.decision_id == sample.c.decision_id,
        given_label.c.person == person,
    )
    labels = (
        select(func.count())
        .select_from(given_label)
        .where(given_label.c.specialist == sample.c.specialist, given_label.c.decision_id == sample.c.decision_id)
        .scalar_subquery()
    )
    known = exists().where(is_of(sample), or_(outcome.c.source != source, labels > 1))
    columns = (sample.c.decision_id, sample.c.text, sample.c.decision, sample.c.score, sample.c.fallback)
    query = select(*columns, pair.label("disagrees"), labels.label("labels")).where(
        sample.c.specialist == specialist, sample.c.text != "", ~known, ~mine
    )
    found = unit.connection.execute(query.order_by(sample.c.id.desc()).limit(LOOKED_AT))
    return [row for row in found if row.text]  # the others are erased


def text_of(unit: Unit, specialist: str, decision_id: str) -> bytes | None:
    """Return the text, sealed, of a sample or of a case labelled before; None for neither."""
    for table in (sample, given_label):
        query = select(type_coerce(table.c.text, LargeBinary))
        query = query.where(table.c.specialist == specialist, table.c.decision_id == decision_id)
        if (found := unit.connection.execute(query.limit(1)).scalar()) is not None:
            return bytes(found)
    return None


def give(unit: Unit, specialist: str, decision_id: str, person: str, label: str, text: bytes) -> None:
    """Keep one person's label of a text, as ``text_of`` returns it; a second word of the same person replaces it."""
    key = (
        given_label.c.specialist == specialist,
        given_label.c.decision_id == decision_id,
        given_label.c.person == person,
    )
    values = {"label": label, "text": text, "at_ms": unit.now_ms}
    if unit.connection.execute(update(given_label).where(*key).values(values)).rowcount == 0:
        unit.connection.execute(
            insert(given_label).values(specialist=specialist, decision_id=decision_id, person=person, **values)
        )


def given(unit: Unit, specialist: str) -> list[Any]:
    """Return every label given (decision_id, person, label, text), in order of cases and people."""
    query = select(given_label.c.decision_id, given_label.c.person, given_label.c.label, given_label.c.text)
    query = query.where(given_label.c.specialist == specialist)
    return list(unit.connection.execute(query.order_by(given_label.c.decision_id, given_label.c.person)))
