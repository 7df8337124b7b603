"""What gateways recorded and counted: samples, shadow pairs, outcomes, arm counters, drift readings."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import LargeBinary, and_, case, delete, func, insert, literal_column, not_, select, type_coerce, update

from controlplane.store.store import Unit
from controlplane.store.tables import (
    arm_counter,
    capture_offset,
    drift_reading,
    drift_reference,
    label_batch,
    not_captured,
    outcome,
    quarantine,
    sample,
    shadow_counter,
    shadow_pair,
)
from controlplane.store.vault import KeyId, day_of
from protos import traffic_pb2
from protos.contract.digest import canonical_json

BY_RATE = "rate"
SEALED = type_coerce(sample.c.text, LargeBinary).label("sealed_text")  # as it is stored, to be kept elsewhere
QUARANTINED = 10_000  # records kept in quarantine
QUARANTINE = ""  # no specialist's: whose keys they are under
MAIN_ARMS = (1, 2)  # decide.v1 ARM_PRIMARY and ARM_BASELINE: what the primary answered


def offsets(unit: Unit) -> dict[str, int]:
    """Return how far each segment has been read, by file name."""
    query = select(capture_offset.c.segment, capture_offset.c.offset)
    return {row.segment: row.offset for row in unit.connection.execute(query)}


def set_offset(unit: Unit, segment: str, offset: int, problem: str = "") -> None:
    """Note how far a segment has been read, in the transaction that keeps what was read."""
    values = {"offset": offset, "problem": problem}
    changed = unit.connection.execute(update(capture_offset).where(capture_offset.c.segment == segment).values(values))
    if changed.rowcount == 0:
        unit.connection.execute(insert(capture_offset).values(segment=segment, **values))


def forget_offsets(unit: Unit, segments: Iterable[str]) -> None:
    """Forget segments that are gone."""
    unit.connection.execute(delete(capture_offset).where(capture_offset.c.segment.in_(list(segments))))


def add_samples(unit: Unit, rows: Sequence[dict[str, Any]]) -> None:
    """Keep samples, what callers sent sealed."""
    if not rows:
        return
    names = [KeyId(row["specialist"], day_of(row["at_ms"]), row.get("subject", "")) for row in rows]
    inputs = [(name, row.get(part)) for name, row in zip(names, rows, strict=True) for part in ("text", "fields")]
    given = [(name, part.encode() if isinstance(part, str) else canonical_json(part)) for name, part in inputs if part]
    sealed = iter(unit.vault.seal(given))
    kept = [next(sealed) if part else b"" for _, part in inputs]
    rows = [{**row, "text": kept[2 * i], "fields": kept[2 * i + 1]} for i, row in enumerate(rows)]
    unit.connection.execute(insert(sample), rows)


def add_pairs(unit: Unit, rows: Sequence[dict[str, Any]]) -> None:
    """Keep shadow pairs."""
    if rows:
        unit.connection.execute(insert(shadow_pair), rows)


def quarantine_records(unit: Unit, segment: str, refused: Sequence[tuple[str, str, bytes]]) -> None:
    """Keep records that could not be used: (reason, detail, bytes). The oldest beyond ``QUARANTINED`` are forgotten."""
    # Nobody's in particular: it goes with its day.
    name = KeyId(QUARANTINE, day_of(unit.now_ms), "")
    bodies = unit.vault.seal([(name, body) for _, _, body in refused])
    rows = [
        {"reason": reason, "segment": segment, "detail": detail[:2000], "body": body, "at_ms": unit.now_ms}
        for (reason, detail, _), body in zip(refused, bodies, strict=True)
    ]
    unit.connection.execute(insert(quarantine), rows)
    edge = unit.connection.execute(
        select(quarantine.c.id).order_by(quarantine.c.id.desc()).offset(QUARANTINED).limit(1)
    ).scalar()
    if edge is not None:
        unit.connection.execute(delete(quarantine).where(quarantine.c.id <= edge))


def quarantined(unit: Unit) -> list[Any]:
    """Count quarantined records by reason (reason, records, last_ms)."""
    columns = (quarantine.c.reason, func.count().label("records"), func.max(quarantine.c.at_ms).label("last_ms"))
    return list(unit.connection.execute(select(*columns).group_by(quarantine.c.reason)))


def add_not_captured(unit: Unit, gateway: str, by_cause: dict[str, int], at_ms: int) -> None:
    """Add to the ledger of what a gateway did not record."""
    for cause, records in by_cause.items():
        where = (not_captured.c.gateway == gateway) & (not_captured.c.cause == cause)
        values = {"records": not_captured.c.records + records, "last_ms": at_ms}
        if unit.connection.execute(update(not_captured).where(where).values(values)).rowcount == 0:
            row = {"gateway": gateway, "cause": cause, "records": records, "last_ms": at_ms}
            unit.connection.execute(insert(not_captured).values(row))


def not_captured_by_cause(unit: Unit) -> list[Any]:
    """Return what gateways did not record (cause, records, last_ms), all gateways together."""
    columns = (
        not_captured.c.cause,
        func.sum(not_captured.c.records).label("records"),
        func.max(not_captured.c.last_ms).label("last_ms"),
    )
    return list(unit.connection.execute(select(*columns).group_by(not_captured.c.cause)))


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
    """Forget the oldest samples, pairs and outcomes beyond ``keep`` of each."""
    for table, order in ((sample, sample.c.id), (shadow_pair, shadow_pair.c.id), (outcome, outcome.c.received_ms)):
        query = select(order).where(table.c.specialist == specialist).order_by(order.desc()).offset(keep).limit(1)
        edge = unit.connection.execute(query).scalar()
        if edge is not None:
            unit.connection.execute(delete(table).where(table.c.specialist == specialist, order <= edge))


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


def primary_samples(unit: Unit, specialist: str, bundle: str, after_id: int, limit: int) -> list[Any]:
    """Return what a bundle answered as primary, oldest first; fallbacks are not its answers.

    Rows are (id, text, fields, decision, label, score, confidence, at_ms, outcome); the outcome is None while
    unknown. Only requests drawn by rate: the others were recorded for being unlike the rest.
    """
    query = _primary(specialist, bundle).where(sample.c.id > after_id).order_by(sample.c.id).limit(limit)
    return list(unit.connection.execute(query))


def matured_samples(unit: Unit, specialist: str, bundle: str, before_ms: int, after_id: int, limit: int) -> list[Any]:
    """Return the newest such rows that were answered before a moment, oldest of them first."""
    query = (
        _primary(specialist, bundle)
        .where(sample.c.id > after_id, sample.c.at_ms <= before_ms)
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    return list(reversed(unit.connection.execute(query).all()))


def samples_between(unit: Unit, specialist: str, bundle: str, first_id: int, last_id: int) -> list[Any]:
    """Return such rows of a stretch, oldest first."""
    query = _primary(specialist, bundle).where(sample.c.id.between(first_id, last_id)).order_by(sample.c.id)
    return list(unit.connection.execute(query))


def _primary(specialist: str, bundle: str) -> Any:
    names = ("id", "text", "fields", "decision", "label", "score", "confidence", "at_ms")
    return (
        select(*(sample.c[name] for name in names), SEALED, outcome.c.label.label("outcome"))
        .outerjoin(outcome, _with_outcomes(sample))
        .where(
            sample.c.specialist == specialist,
            sample.c.bundle == bundle,
            sample.c.arm.in_(MAIN_ARMS),
            sample.c.fallback.is_(False),
            sample.c.drawn_for == BY_RATE,
        )
    )


def _with_outcomes(table: Any) -> Any:
    return and_(outcome.c.specialist == table.c.specialist, outcome.c.decision_id == table.c.decision_id)


def labelled(unit: Unit, specialist: str, after_id: int, limit: int) -> list[Any]:
    """Return the newest samples (text, label) whose outcome is known, newest first, a text once.

    Labels of a source's day that are held back are not among them.
    """
    query = (
        select(sample.c.text, outcome.c.label)
        .join(outcome, _with_outcomes(sample))
        .where(sample.c.specialist == specialist, sample.c.id > after_id, sample.c.text != "")
        .where(*_not_held_back(unit, specialist))
        .order_by(sample.c.id.desc())
    )
    newest: dict[str, Any] = {}
    for row in unit.connection.execute(query):
        if row.text:
            newest.setdefault(row.text, row)  # callers may have disagreed about a text: the last word counts
        if len(newest) == limit:
            break
    return list(newest.values())


def _not_held_back(unit: Unit, specialist: str) -> list[Any]:
    """Return the conditions that leave out labels of a source's day that are held back."""
    query = select(label_batch.c.source, label_batch.c.day).where(
        label_batch.c.specialist == specialist, label_batch.c.state == "flagged"
    )
    return [
        not_(and_(outcome.c.source == batch.source, outcome.c.received_ms.between(*_of_day(batch.day))))
        for batch in unit.connection.execute(query)
    ]


def _of_day(day: str) -> tuple[int, int]:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return int(1000 * start.timestamp()), int(1000 * (start + timedelta(days=1)).timestamp()) - 1


def labelled_cases(unit: Unit, specialist: str, limit: int) -> list[Any]:
    """Return the newest samples with a known outcome, newest first, a text once.

    Rows are (id, decision_id, text, label, answered, at_ms): the truth, what the engine answered, when it did. Labels
    that are held back are not among them.
    """
    columns = (sample.c.id, sample.c.decision_id, sample.c.text, outcome.c.label, sample.c.label.label("answered"))
    query = (
        select(*columns, sample.c.at_ms, SEALED)
        .join(outcome, _with_outcomes(sample))
        .where(sample.c.specialist == specialist, sample.c.text != "", *_not_held_back(unit, specialist))
        .order_by(sample.c.id.desc())
        .limit(limit)
    )
    newest: dict[str, Any] = {}
    for row in unit.connection.execute(query):
        if row.text:  # else it was erased
            newest.setdefault(row.text, row)
    return list(newest.values())


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


def arm_decisions(unit: Unit, specialist: str, salt: str, generation: int, due_ms: int | None) -> list[Any]:
    """Count (arm, decision, true label, matured, n) over one stage's samples with a known outcome.

    A stage is a rollout's salt from the plan generation that began it. Fallbacks count: they are
    what the arm did to its callers. Samples recorded for standing out do not: one arm may have more of them.

    Args:
        due_ms: Decisions made up to then are matured; None: nobody can say of any.
    """
    matured = _is_matured(sample.c.at_ms, due_ms)
    query = (
        select(sample.c.arm, sample.c.decision, outcome.c.label, matured, func.count().label("n"))
        .join(outcome, _with_outcomes(sample))
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
        .join(outcome, _with_outcomes(sample))
        .where(sample.c.specialist == specialist, sample.c.bundle == bundle, sample.c.drawn_for == BY_RATE)
        .group_by(sample.c.arm, sample.c.decision, outcome.c.label)
    )
    return list(unit.connection.execute(query))


def _is_matured(at_ms: Any, due_ms: int | None) -> Any:
    return case((at_ms <= (-1 if due_ms is None else due_ms), 1), else_=0).label("matured")


def answers_with_outcome(unit: Unit, specialist: str, bundle: str, limit: int) -> list[Any]:
    """Return a bundle's newest answers (label, confidence, outcome) whose outcome is known, drawn by rate."""
    query = (
        select(sample.c.label, sample.c.confidence, outcome.c.label.label("outcome"))
        .join(outcome, _with_outcomes(sample))
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


def pair_decisions(unit: Unit, salt: str, since_ms: int, due_ms: int | None) -> list[Any]:
    """Count (primary decision, candidate decision, in time, true label or None, matured, n) over a stage's pairs.

    Args:
        due_ms: As in ``arm_decisions``.
    """
    matured = _is_matured(shadow_pair.c.at_ms, due_ms)
    columns = (shadow_pair.c.primary_decision, shadow_pair.c.candidate_decision, shadow_pair.c.in_time, outcome.c.label)
    query = (
        select(*columns, matured, func.count().label("n"))
        .outerjoin(outcome, _with_outcomes(shadow_pair))
        .where(shadow_pair.c.salt == salt, shadow_pair.c.at_ms >= since_ms)
        .group_by(*columns, literal_column("matured"))
    )
    return list(unit.connection.execute(query))


def pair_details(unit: Unit, salt: str, since_ms: int, limit: int) -> list[Any]:
    """Return a stage's newest shadow pairs with their outcome's label or None, newest first."""
    query = (
        select(shadow_pair, outcome.c.label)
        .outerjoin(outcome, _with_outcomes(shadow_pair))
        .where(shadow_pair.c.salt == salt, shadow_pair.c.at_ms >= since_ms)
        .order_by(shadow_pair.c.id.desc())
        .limit(limit)
    )
    return list(unit.connection.execute(query))


def shadow_counts(unit: Unit, specialist: str, salt: str) -> list[Any]:
    """Return (offered, sent, paired, drops) of a rollout's shadow, one row per start of a gateway."""
    query = select(
        shadow_counter.c.offered, shadow_counter.c.sent, shadow_counter.c.paired, shadow_counter.c.drops
    ).where(shadow_counter.c.specialist == specialist, shadow_counter.c.salt == salt)
    return list(unit.connection.execute(query))


def keep_counters(unit: Unit, report: traffic_pb2.GatewayReport) -> None:
    """Replace a gateway's counters since its start by newer ones."""
    for table in (arm_counter, shadow_counter):
        run = (table.c.gateway == report.gateway_id) & (table.c.run == report.run_id)
        unit.connection.execute(delete(table).where(run))
    shadows = [
        {
            "gateway": report.gateway_id,
            "run": report.run_id,
            "specialist": shadow.specialist,
            "salt": shadow.salt,
            "candidate": shadow.candidate_digest,
            "offered": shadow.offered,
            "sent": shadow.sent,
            "paired": shadow.paired,
            "drops": dict(shadow.drops),
        }
        for shadow in report.shadows
    ]
    if shadows:
        unit.connection.execute(insert(shadow_counter), shadows)
    rows = [
        {
            "gateway": report.gateway_id,
            "run": report.run_id,
            "specialist": arm.specialist,
            "salt": arm.salt,
            "arm": int(arm.arm),
            "bundle": arm.bundle_digest,
            "requests": arm.requests,
            "errors": arm.errors,
            "fallbacks": dict(arm.fallbacks),
            "in_time": arm.in_time,
            "latency": list(arm.latency_counts),
        }
        for arm in report.arms
    ]
    if rows:
        unit.connection.execute(insert(arm_counter), rows)


def arm_counts(unit: Unit, specialist: str, salt: str) -> dict[str, dict[str, int]]:
    """Add up requests, unanswered (errors and fallbacks) and late ones of a rollout, by arm number as text."""
    query = select(arm_counter).where(arm_counter.c.specialist == specialist, arm_counter.c.salt == salt)
    found: dict[str, dict[str, int]] = {}
    for row in unit.connection.execute(query):
        arm = found.setdefault(str(row.arm), {"requests": 0, "unanswered": 0, "late": 0})
        arm["requests"] += row.requests
        arm["unanswered"] += row.errors + sum(row.fallbacks.values())
        arm["late"] += row.requests - row.in_time
    return found


def arm_rows(unit: Unit, specialist: str, salt: str) -> list[Any]:
    """Return a rollout's counters, one row per arm, bundle and start of a gateway."""
    query = select(arm_counter).where(arm_counter.c.specialist == specialist, arm_counter.c.salt == salt)
    return list(unit.connection.execute(query.order_by(arm_counter.c.arm)))


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


def add_reading(unit: Unit, values: dict[str, Any]) -> None:
    """Keep one drift reading."""
    unit.connection.execute(insert(drift_reading).values(at_ms=unit.now_ms, **values))


def readings(unit: Unit, specialist: str = "", bundle: str = "", signal: str = "", limit: int = 200) -> list[Any]:
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
