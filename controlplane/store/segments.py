"""Capture segments: how far each was read, what in them could not be used, and what was never written to any."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import capture_offset, not_captured, quarantine
from controlplane.store.vault import KeyId, day_of, key_of

QUARANTINED = 10_000  # records kept in quarantine
QUARANTINE = ""  # no specialist's: whose keys they are under
UNREADABLE = "unreadable"  # whose a record is that nobody can tell


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


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that could not be used, and why. ``subject`` is its caller's pseudonym, where it has one."""

    reason: str
    detail: str
    body: bytes
    specialist: str = ""
    subject: str = ""

    @property
    def owner(self) -> str:
        """Whose key it is kept under: a caller's, else its specialist's."""
        return self.subject or (of_specialist(self.specialist) if self.specialist else UNREADABLE)


def of_specialist(name: str) -> str:
    """Name the quarantine key of a specialist's records that are no caller's."""
    return f"specialist/{name}"


def quarantine_records(unit: Unit, segment: str, refused: Sequence[Refused]) -> None:
    """Keep records that could not be used. The oldest beyond ``QUARANTINED`` are forgotten."""
    day = day_of(unit.now_ms)
    bodies = unit.vault.seal([(KeyId(QUARANTINE, day, one.owner), one.body) for one in refused])
    rows = [
        {"reason": one.reason, "segment": segment, "detail": one.detail[:2000], "body": body, "at_ms": unit.now_ms}
        for one, body in zip(refused, bodies, strict=True)
    ]
    unit.connection.execute(insert(quarantine), rows)
    edge = unit.connection.execute(
        select(quarantine.c.id).order_by(quarantine.c.id.desc()).offset(QUARANTINED).limit(1)
    ).scalar()
    if edge is not None:
        unit.connection.execute(delete(quarantine).where(quarantine.c.id <= edge))


def quarantined_bodies(unit: Unit) -> Iterator[tuple[int, KeyId, bytes]]:
    """Return what can be read of the quarantine: the row, the key it is under, and the record."""
    for row in unit.connection.execute(select(quarantine.c.id, quarantine.c.body)):
        name, body = key_of(row.body), unit.vault.open(row.body)
        if name is not None and body is not None:
            yield row.id, name, body


def forget_quarantined(unit: Unit, rows: Iterable[int]) -> None:
    """Delete records from quarantine."""
    unit.connection.execute(delete(quarantine).where(quarantine.c.id.in_(list(rows))))


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
