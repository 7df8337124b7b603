"""Capture segments: how far each was read, what in them could not be used, and what was never written to any."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import capture_offset, not_captured, quarantine
from controlplane.store.vault import KeyId, day_of

QUARANTINED = 10_000  # records kept in quarantine
QUARANTINE = ""  # no specialist's: whose keys they are under


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
