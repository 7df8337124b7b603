"""Where the ledger speaks of a signed thing, and who else vouches for the ledger's heads."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text, bindparam, func, insert, select

from controlplane.store import ledger
from controlplane.store.store import Unit
from controlplane.store.tables import metadata

recorded = Table(
    "recorded",
    metadata,
    Column("digest", String(71), primary_key=True),  # of the signed bytes
    Column("seq", Integer, nullable=False),
)
cosignature = Table(
    "cosignature",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("witness", String(200), primary_key=True),
    Column("line", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
witness = Table(
    "witness",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("key", String(200), nullable=False),  # the first key it ever showed
    Column("since_ms", BigInteger, nullable=False),
)

_SEQ_OF = select(recorded.c.seq).where(recorded.c.digest == bindparam("of"))
_SEQS = select(recorded.c.digest, recorded.c.seq).where(recorded.c.digest.in_(bindparam("of", expanding=True)))
_KEY_OF = select(witness.c.key).where(witness.c.name == bindparam("who"))
_COSIGNED = select(cosignature.c.size).where(
    cosignature.c.size == bindparam("at"), cosignature.c.witness == bindparam("who")
)


def note(unit: Unit, digest: str, seq: int) -> None:
    """Note which entry records a signed thing; the first one counts."""
    if seq_of(unit, digest) is None:
        unit.connection.execute(insert(recorded).values(digest=digest, seq=seq))


def seq_of(unit: Unit, digest: str) -> int | None:
    """Return the entry that records a signed thing."""
    found = unit.connection.execute(_SEQ_OF, {"of": digest}).scalar()
    return None if found is None else int(found)


def seqs(unit: Unit, digests: Iterable[str]) -> dict[str, int]:
    """Return entries by digest, those that are known."""
    return {row.digest: row.seq for row in unit.connection.execute(_SEQS, {"of": list(digests)})}


def witness_key(unit: Unit, name: str) -> str | None:
    """Return the key a witness is known by."""
    return unit.connection.execute(_KEY_OF, {"who": name}).scalar()


def add_witness(unit: Unit, name: str, key: str) -> None:
    """Keep the key that a witness showed first."""
    unit.connection.execute(insert(witness).values(name=name, key=key, since_ms=unit.now_ms))


def witnesses(unit: Unit) -> list[Any]:
    """Return every witness (name, key, since_ms)."""
    return list(unit.connection.execute(select(witness).order_by(witness.c.name)))


def add_cosignature(unit: Unit, size: int, name: str, line: str) -> bool:
    """Keep a witness's word on a head; return whether it is news."""
    if unit.connection.execute(_COSIGNED, {"at": size, "who": name}).first() is not None:
        return False
    unit.connection.execute(insert(cosignature).values(size=size, witness=name, line=line, at_ms=unit.now_ms))
    return True


def cosignatures(unit: Unit, size: int) -> list[Any]:
    """Return the words of witnesses on a head (witness, line), by name."""
    query = select(cosignature.c.witness, cosignature.c.line).where(cosignature.c.size == size)
    return list(unit.connection.execute(query.order_by(cosignature.c.witness)))


def last_cosigned(unit: Unit, size: int) -> list[Any]:
    """Return the newest head of up to ``size`` entries that each witness cosigned (witness, size, line, text)."""
    mine, head = cosignature.alias("mine"), ledger.ledger_checkpoint.c
    newest = select(func.max(mine.c.size)).where(mine.c.witness == cosignature.c.witness, mine.c.size <= size)
    query = (
        select(cosignature.c.witness, cosignature.c.size, cosignature.c.line, head.text)
        .join(ledger.ledger_checkpoint, head.size == cosignature.c.size)
        .where(cosignature.c.size == newest.scalar_subquery())
    )
    return list(unit.connection.execute(query.order_by(cosignature.c.witness)))
