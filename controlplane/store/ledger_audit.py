"""Recompute a stored ledger and find where it contradicts itself or what was signed of it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, bindparam, func, select

from controlplane.store.ledger import (
    VERSION,
    LedgerBroken,
    ledger_checkpoint,
    ledger_entry,
    ledger_node,
    read_entry,
)
from protos.contract.checkpoint import CheckpointInvalid, verify_checkpoint
from protos.contract.digest import canonical_json
from protos.contract.merkle import EMPTY_ROOT, Trail, leaf_hash

VERIFY_BATCH = 8192  # entries held in memory at once while verifying
_PLAIN_TIME = re.compile(r"[0-9TZ:.-]{20,32}")
_SCAN = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[attr-defined]  # no search for an encoding
_NODES_BETWEEN = select(ledger_node.c.idx, ledger_node.c.hash).where(
    ledger_node.c.level == bindparam("level"), ledger_node.c.idx.between(bindparam("low"), bindparam("high"))
)


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
        text = body.decode()
        return bool(_SCAN(text, 0)[1] == len(text))
    except (ValueError, StopIteration, RecursionError):
        return False


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
        entry = read_entry(seq, body)
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
        rows = connection.execute(_NODES_BETWEEN, {"level": level, "low": min(nodes), "high": max(nodes)}).all()
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
