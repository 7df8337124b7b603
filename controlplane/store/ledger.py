"""The ledger: an RFC 6962 Merkle tree in SQL, written in the same transaction as the change it records.

It is tamper-evident: whoever holds the database can rewrite it, and cannot hide that from
anybody who holds an earlier signed checkpoint.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
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
)

from protos.contract.checkpoint import CheckpointInvalid, sign_checkpoint, verify_checkpoint
from protos.contract.digest import JsonMalformed, canonical_json, parse_json_object
from protos.contract.merkle import (
    EMPTY_ROOT,
    Trail,
    complete_subtrees,
    consistency_proof,
    fold,
    inclusion_proof,
    leaf_hash,
    node_hash,
)

VERSION = 1
_PLAIN_TIME = re.compile(r"[0-9TZ:.-]{20,32}")
GENESIS = "ledger.genesis"
KEEPER = "ledger"
VERIFY_BATCH = 8192  # entries held in memory at once while verifying

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
_NODE_AT = select(ledger_node.c.hash).where(
    ledger_node.c.level == bindparam("level"), ledger_node.c.idx == bindparam("idx")
)
_NODES_BETWEEN = select(ledger_node.c.idx, ledger_node.c.hash).where(
    ledger_node.c.level == bindparam("level"), ledger_node.c.idx.between(bindparam("low"), bindparam("high"))
)
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


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a full verification found; ``first_bad_seq`` is the earliest entry that cannot be relied on."""

    size: int
    root: bytes
    checkpoints: int
    first_bad_seq: int | None
    problem: str | None

    @property
    def is_intact(self) -> bool:
        """Say whether every entry, node and checkpoint agrees."""
        return self.first_bad_seq is None


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
    return size, _subtree_root(connection, 0, size)


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
    row = connection.execute(
        select(ledger_checkpoint).where(ledger_checkpoint.c.size >= least).order_by(ledger_checkpoint.c.size.desc())
    ).first()
    return None if row is None else (row.size, row.text)


def first_checkpoint(connection: Connection, least: int) -> tuple[int, str] | None:
    """Return the oldest stored checkpoint of at least so many entries as (size, text)."""
    row = connection.execute(
        select(ledger_checkpoint).where(ledger_checkpoint.c.size >= least).order_by(ledger_checkpoint.c.size)
    ).first()
    return None if row is None else (row.size, row.text)


def prove_inclusion(connection: Connection, seq: int, size: int | None = None) -> list[bytes]:
    """Prove that entry ``seq`` is in the ledger of ``size`` entries, by default all; for ``merkle.is_included``.

    Raises:
        ValueError: There is no such entry or the ledger is not that long yet.
    """
    return inclusion_proof(seq, _known(connection, size), lambda start, end: _subtree_root(connection, start, end))


def prove_consistency(connection: Connection, old_size: int, new_size: int | None = None) -> list[bytes]:
    """Prove that the ledger of ``old_size`` entries is a prefix of a later one; for ``merkle.is_consistent``.

    Raises:
        ValueError: ``old_size`` is not in 1..``new_size`` or the ledger is not that long yet.
    """
    return consistency_proof(
        old_size, _known(connection, new_size), lambda start, end: _subtree_root(connection, start, end)
    )


def body_of(connection: Connection, seq: int) -> bytes:
    """Return the bytes of one entry that the tree commits to; raises ValueError when there is none."""
    found = connection.execute(select(ledger_entry.c.body).where(ledger_entry.c.seq == seq)).scalar()
    if found is None:
        raise ValueError(f"seq is {seq}, expected an entry of the ledger")
    return bytes(found)


def entries(connection: Connection, from_seq: int, limit: int) -> list[Entry]:
    """Return up to ``limit`` entries from ``from_seq`` on, in order."""
    rows = connection.execute(
        select(ledger_entry.c.seq, ledger_entry.c.body)
        .where(ledger_entry.c.seq >= from_seq)
        .order_by(ledger_entry.c.seq)
        .limit(limit)
    )
    return [_read(seq, body) for seq, body in rows]


def of_action(connection: Connection, action: str) -> list[Entry]:
    """Return every entry of one action, in order."""
    query = select(ledger_entry.c.seq, ledger_entry.c.body).where(ledger_entry.c.action == action)
    return [_read(seq, body) for seq, body in connection.execute(query.order_by(ledger_entry.c.seq))]


def verify(connection: Connection, public_key: Ed25519PublicKey, origin: str, held: Sequence[str] = ()) -> LedgerReport:
    """Recompute the whole tree from the entries' bodies and compare it with all that is stored.

    Args:
        held: Checkpoints kept elsewhere, by gateways or auditors: the only defence against a
            rewrite by somebody who also holds the signing key or deleted the stored checkpoints.
    """
    stored = connection.execute(select(ledger_checkpoint.c.size, ledger_checkpoint.c.text)).all()
    trail = Trail()
    # Sizes whose root has to be remembered on the way, before their signatures are checked.
    claims: list[tuple[int, bytes]] = []
    faults: list[tuple[int, str]] = []
    for size, text in [*((row.size, row.text) for row in stored), *((None, text) for text in held)]:
        try:
            said = verify_checkpoint(str(text), origin, public_key)
        except CheckpointInvalid as error:
            faults.append((max((size or 1) - 1, 0), f"checkpoint of size {size or 'unknown'}: {error}"))
            continue
        if size is not None and said.size != size:
            faults.append((max(min(size, said.size) - 1, 0), f"checkpoint of size {said.size} is stored as {size}"))
        claims.append((said.size, said.root))
    wanted = {size for size, _ in claims}
    roots = {0: EMPTY_ROOT} if 0 in wanted else {}
    problem = _walk(connection, trail, wanted, roots)
    if problem is not None:
        faults.append(problem)
    else:
        faults += _stray_nodes(connection, trail.size)
        faults += _compare(sorted(claims), roots, trail.size)
    first = min(faults, default=None)
    return LedgerReport(
        size=trail.size,
        root=trail.root(),
        checkpoints=len(stored),
        first_bad_seq=None if first is None else first[0],
        problem=None if first is None else first[1],
    )


def _size(connection: Connection) -> int:
    last = connection.execute(_LAST).scalar()
    return 0 if last is None else int(last) + 1


def _known(connection: Connection, size: int | None) -> int:
    have = _size(connection)
    if size is not None and not 0 <= size <= have:
        raise ValueError(f"size is {size}, expected 0 to {have}")
    return have if size is None else size


def _nodes(connection: Connection, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """Fetch nodes by (level, idx), in the order asked for; a proof needs a logarithm of them."""
    found = []
    for level, idx in places:
        digest = connection.execute(_NODE_AT, {"level": level, "idx": idx}).scalar()
        if digest is None:
            raise LedgerBroken(idx << level, f"node {idx} of level {level} is missing from the stored tree")
        found.append(bytes(digest))
    return found


def _subtree_root(connection: Connection, start: int, end: int) -> bytes:
    return fold(_nodes(connection, complete_subtrees(start, end)))


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


def _read(seq: int, body: bytes) -> Entry:
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


def _walk(connection: Connection, trail: Trail, wanted: set[int], roots: dict[int, bytes]) -> tuple[int, str] | None:
    """Feed every entry to the trail, batch by batch; return the first contradiction as (seq, problem)."""
    while True:
        start = trail.size
        rows = connection.execute(
            select(ledger_entry)
            .where(ledger_entry.c.seq >= (start if start else -(2**31)))
            .order_by(ledger_entry.c.seq)
            .limit(VERIFY_BATCH)
        ).all()
        if not rows:
            return None
        made: list[tuple[int, int, bytes]] = []
        problem: tuple[int, str] | None = None
        for seq, at, actor, action, body in rows:
            # A million entries are read here: most are as they should be, and that is found out without a parser.
            if seq != trail.size or not _is_as_written(seq, at, actor, action, body):
                problem = _contradiction(trail.size, seq, at, actor, action, body)
                if problem is not None:
                    break
            made += trail.add(leaf_hash(body))
            if trail.size in wanted:
                roots[trail.size] = trail.root()
        mismatch = _mismatch(connection, made)
        if mismatch is not None or problem is not None:
            return min(found for found in (mismatch, problem) if found is not None)


def _is_as_written(seq: int, at: str, actor: str, action: str, body: bytes) -> bool:
    """Say whether a body is the bytes that ``append`` writes for these columns: RFC 8785 puts its keys in order."""
    if not isinstance(body, bytes) or not isinstance(at, str) or not _PLAIN_TIME.fullmatch(at):
        return False
    head = f'{{"action":{_text(action)},"actor":{_text(actor)},"at":"{at}","detail":{{'.encode()
    tail = f'}},"seq":{seq},"v":{VERSION}}}'.encode()
    if not body.startswith(head) or not body.endswith(tail):
        return False
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


@lru_cache(4096)
def _text(value: str) -> str:
    return canonical_json(value).decode() if isinstance(value, str) else ""


def _contradiction(expected: int, seq: int, at: str, actor: str, action: str, body: bytes) -> tuple[int, str] | None:
    """Compare one row with its place and with its own body."""
    if seq != expected:
        if seq < expected:
            return expected, f"entry {seq} precedes the genesis entry"
        return expected, f"entry {expected} is missing, entry {seq} comes next"
    try:
        entry = _read(seq, body)
        moment = entry.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    except LedgerBroken as error:
        return seq, str(error)
    if (moment, entry.actor, entry.action) != (at, actor, action):
        return seq, f"entry {seq}: its columns say other than its body"
    return None


def _mismatch(connection: Connection, made: list[tuple[int, int, bytes]]) -> tuple[int, str] | None:
    """Compare recomputed nodes with the stored ones; return the first entry under a node that differs."""
    by_level: dict[int, dict[int, bytes]] = {}
    for level, idx, digest in made:
        by_level.setdefault(level, {})[idx] = digest
    faults = []
    for level, nodes in by_level.items():
        rows = connection.execute(_NODES_BETWEEN, {"level": level, "low": min(nodes), "high": max(nodes)})
        stored = {idx: digest for idx, digest in rows}  # noqa: C416 - rows are no tuples to the type checker
        if stored == nodes:
            continue
        # A changed leaf is named itself; a changed inner node, by the last entry that made it.
        faults += [
            (((idx + 1) << level) - 1, f"node {idx} of level {level} is not the hash of what is under it")
            for idx, digest in nodes.items()
            if stored.get(idx) != digest
        ]
    return min(faults, default=None)


def _stray_nodes(connection: Connection, size: int) -> list[tuple[int, str]]:
    """Find stored nodes over entries that are not there, left when the last entries are deleted."""
    expected = 2 * size - size.bit_count()
    count = int(connection.execute(select(func.count()).select_from(ledger_node)).scalar_one())
    return [(size, f"{count} nodes are stored, expected {expected} for {size} entries")] if count != expected else []


def _compare(claims: list[tuple[int, bytes]], roots: dict[int, bytes], size: int) -> list[tuple[int, str]]:
    """Hold the recomputed roots against what was signed; claims come in the order of their sizes."""
    agreed = 0
    for claimed, root in claims:
        if claimed > size:
            return [(size, f"a checkpoint covers {claimed} entries, {size} are left")]
        if roots[claimed] != root:
            return [(agreed, f"entries {agreed} to {claimed - 1} are not those signed in the checkpoint of {claimed}")]
        agreed = claimed
    return []
