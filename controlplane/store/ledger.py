"""The ledger: an RFC 6962 Merkle tree in SQL, written in the same transaction as the change it records.

It is tamper-evident: whoever holds the database can rewrite it, and cannot hide that from
anybody who holds an earlier signed checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    event,
    func,
    insert,
    select,
    tuple_,
)

from protos.contract.checkpoint import sign_checkpoint
from protos.contract.digest import JsonMalformed, canonical_json, parse_json_object
from protos.contract.ledger_proof import EntryProof
from protos.contract.merkle import (
    SubtreeRoot,
    complete_subtrees,
    consistency_proof,
    fold,
    inclusion_proof,
    leaf_hash,
    node_hash,
)

T = TypeVar("T")

VERSION = 1
GENESIS = "ledger.genesis"
KEEPER = "ledger"

ledger_metadata = MetaData()

ledger_entry = Table(
    "ledger_entry",
    ledger_metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("actor", String(200), nullable=False, index=True),
    Column("action", String(200), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)
ledger_node = Table(
    "ledger_node",
    ledger_metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False),
)
ledger_checkpoint = Table(
    "ledger_checkpoint",
    ledger_metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)

# A speed bump for mistakes, not the guarantee: whoever owns the database can drop a trigger.
_ON_POSTGRES = """
CREATE OR REPLACE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$;
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
EXECUTE FUNCTION ledger_append_only()
"""
for _table in (ledger_entry, ledger_node, ledger_checkpoint):
    _statements = [("postgresql", _ON_POSTGRES.format(table=_table.name))]
    for _operation in ("UPDATE", "DELETE"):
        _refusal = f"BEGIN SELECT RAISE(ABORT, '{_table.name} is append-only'); END"
        _name = f"{_table.name}_no_{_operation.lower()}"
        _statements.append(("sqlite", f"CREATE TRIGGER {_name} BEFORE {_operation} ON {_table.name} {_refusal}"))
    for _dialect, _statement in _statements:
        _trigger = DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        event.listen(_table, "after_create", _trigger)

_LAST = select(func.max(ledger_entry.c.seq))
_NODES_AT = select(ledger_node.c.level, ledger_node.c.idx, ledger_node.c.hash).where(
    tuple_(ledger_node.c.level, ledger_node.c.idx).in_(bindparam("places", expanding=True))
)
_BODIES_OF = select(ledger_entry.c.seq, ledger_entry.c.body).where(
    ledger_entry.c.seq.in_(bindparam("seqs", expanding=True))
)
_NEWEST_HEAD = (
    select(ledger_checkpoint)
    .where(ledger_checkpoint.c.size >= bindparam("least"))
    .order_by(ledger_checkpoint.c.size.desc())
    .limit(1)
)
AT_ONCE = 500  # rows asked for by name in one statement; SQLite takes 32,766 variables
_ADD_ENTRY = insert(ledger_entry)
_ADD_NODE = insert(ledger_node)


class LedgerBroken(Exception):
    """The stored ledger contradicts itself at ``seq``, so nothing may be proved from it or added to it."""

    def __init__(self, seq: int, message: str) -> None:
        super().__init__(message)
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded act: who did what, when. ``body`` is the canonical JSON that the tree commits to."""

    seq: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]
    body: bytes


def append(connection: Connection, actor: str, action: str, detail: dict[str, Any], at: datetime) -> int:
    """Record one act in the caller's transaction and return its sequence number.

    The transaction must keep other writers out, as ``Store.writing`` does. The first act on a new ledger is
    preceded by a genesis entry, and so gets number 1.

    Raises:
        ValueError: ``at`` has no time zone, or ``detail`` is not JSON.
        LedgerBroken: Nodes of the stored tree are missing.
    """
    if at.tzinfo is None:
        raise ValueError(f"at is {at!r}, expected a time with a time zone")
    size = _size(connection)
    if size == 0:
        _append_at(connection, 0, KEEPER, GENESIS, {"version": VERSION}, at)
        size = 1
    _append_at(connection, size, actor, action, detail, at)
    return size


def head(connection: Connection) -> tuple[int, bytes]:
    """Return the number of entries and the root over them."""
    size = _size(connection)
    return size, fold(_nodes(connection, complete_subtrees(0, size)))


def checkpoint(connection: Connection, private_key: Ed25519PrivateKey, origin: str) -> str:
    """Sign the present head, keep it and return it; the same head gives the same text.

    Raises:
        ValueError: The ledger has no entry yet: an empty tree proves nothing.
        LedgerBroken: Another checkpoint of this size is stored.
    """
    size, root = head(connection)
    if size == 0:
        raise ValueError("the ledger is empty, expected at least its genesis entry")
    text = sign_checkpoint(origin, size, root, private_key)
    stored = connection.execute(select(ledger_checkpoint.c.text).where(ledger_checkpoint.c.size == size)).scalar()
    if stored is None:
        connection.execute(insert(ledger_checkpoint).values(size=size, text=text))
    elif stored != text:
        raise LedgerBroken(size - 1, f"another checkpoint of size {size} is stored; add an entry to sign a new head")
    return text


def stored_checkpoint(connection: Connection, least: int = 0) -> tuple[int, str] | None:
    """Return the newest stored checkpoint of at least so many entries as (size, text)."""
    row = connection.execute(_NEWEST_HEAD, {"least": least}).first()
    return None if row is None else (row.size, row.text)


def first_checkpoint(connection: Connection, least: int) -> tuple[int, str] | None:
    """Return the oldest stored checkpoint of at least so many entries as (size, text)."""
    row = connection.execute(
        select(ledger_checkpoint).where(ledger_checkpoint.c.size >= least).order_by(ledger_checkpoint.c.size)
    ).first()
    return None if row is None else (row.size, row.text)


def prove(connection: Connection, seqs: Sequence[int], size: int | None = None) -> list[EntryProof]:
    """Return entries with the proof that each is in the ledger of ``size`` entries, by default all of it.

    Raises:
        ValueError: There is no such entry or the ledger is not that long yet.
    """
    size = _known(connection, size)
    hashes = _with_nodes(connection, lambda root: [inclusion_proof(seq, size, root) for seq in seqs])
    bodies: dict[int, bytes] = {}
    for some in batched(seqs):
        bodies |= {row.seq: bytes(row.body) for row in connection.execute(_BODIES_OF, {"seqs": some})}
    missing = next((seq for seq in seqs if seq not in bodies), None)
    if missing is not None:
        raise LedgerBroken(missing, f"entry {missing} is missing")
    return [EntryProof(seq, bodies[seq], tuple(proof)) for seq, proof in zip(seqs, hashes, strict=True)]


def prove_consistency(connection: Connection, old_size: int, new_size: int | None = None) -> list[bytes]:
    """Prove that the ledger of ``old_size`` entries is a prefix of a later one; for ``merkle.is_consistent``.

    Raises:
        ValueError: ``old_size`` is not in 1..``new_size`` or the ledger is not that long yet.
    """
    known = _known(connection, new_size)
    return _with_nodes(connection, lambda root: consistency_proof(old_size, known, root))


def entries(connection: Connection, from_seq: int, limit: int) -> list[Entry]:
    """Return up to ``limit`` entries from ``from_seq`` on, in order."""
    rows = connection.execute(
        select(ledger_entry.c.seq, ledger_entry.c.body)
        .where(ledger_entry.c.seq >= from_seq)
        .order_by(ledger_entry.c.seq)
        .limit(limit)
    )
    return [read_entry(seq, body) for seq, body in rows]


def of_action(connection: Connection, action: str) -> list[Entry]:
    """Return every entry of one action, in order."""
    query = select(ledger_entry.c.seq, ledger_entry.c.body).where(ledger_entry.c.action == action)
    return [read_entry(seq, body) for seq, body in connection.execute(query.order_by(ledger_entry.c.seq))]


def _size(connection: Connection) -> int:
    last = connection.execute(_LAST).scalar()
    return 0 if last is None else int(last) + 1


def _known(connection: Connection, size: int | None) -> int:
    have = _size(connection)
    if size is not None and not 0 <= size <= have:
        raise ValueError(f"size is {size}, expected 0 to {have}")
    return have if size is None else size


def _nodes(connection: Connection, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """Fetch nodes by (level, idx), in the order asked for."""
    found: dict[tuple[int, int], bytes] = {}
    for some in batched(places):
        rows = connection.execute(_NODES_AT, {"places": some})
        found |= {(row.level, row.idx): bytes(row.hash) for row in rows}
    for level, idx in places:
        if (level, idx) not in found:
            raise LedgerBroken(idx << level, f"node {idx} of level {level} is missing from the stored tree")
    return [found[place] for place in places]


def _with_nodes(connection: Connection, work: Callable[[SubtreeRoot], T]) -> T:
    """Do work that asks for subtrees' roots: once to learn which nodes it needs, then with them, fetched together."""
    places: dict[tuple[int, int], bytes] = {}

    def note(start: int, end: int) -> bytes:
        places.update(dict.fromkeys(complete_subtrees(start, end), b""))
        return b""

    work(note)
    places.update(zip(places, _nodes(connection, list(places)), strict=True))
    return work(lambda start, end: fold([places[place] for place in complete_subtrees(start, end)]))


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list into parts that one statement can name."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def _append_at(connection: Connection, seq: int, actor: str, action: str, detail: dict[str, Any], at: datetime) -> None:
    moment = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    body = canonical_json({"v": VERSION, "seq": seq, "at": moment, "actor": actor, "action": action, "detail": detail})
    # Every trailing one of seq is a complete left neighbour that the new leaf closes.
    closing = (~seq & (seq + 1)).bit_length() - 1
    siblings = _nodes(connection, [(level, (seq >> level) - 1) for level in range(closing)])
    node = leaf_hash(body)
    rows = [{"level": 0, "idx": seq, "hash": node}]
    for level, sibling in enumerate(siblings, start=1):
        node = node_hash(sibling, node)
        rows.append({"level": level, "idx": seq >> level, "hash": node})
    connection.execute(_ADD_ENTRY, {"seq": seq, "at": moment, "actor": actor, "action": action, "body": body})
    connection.execute(_ADD_NODE, rows)


def read_entry(seq: int, body: bytes) -> Entry:
    """Read an entry from its body, the only part the tree vouches for."""
    if not isinstance(body, bytes):
        # SQLite keeps whatever type is written into a column; only bytes have a hash.
        raise LedgerBroken(seq, f"entry {seq} cannot be read: its body is {type(body).__name__}, expected bytes")
    try:
        said = parse_json_object(body)
        at = datetime.fromisoformat(said["at"])
        if (said["v"], said["seq"]) != (VERSION, seq) or not isinstance(said["detail"], dict):
            raise ValueError(f"body is of version {said['v']!r} and entry {said['seq']!r}")
        return Entry(seq, at, str(said["actor"]), str(said["action"]), said["detail"], body)
    except (JsonMalformed, KeyError, TypeError, ValueError) as error:
        raise LedgerBroken(seq, f"entry {seq} cannot be read: {error}") from error
