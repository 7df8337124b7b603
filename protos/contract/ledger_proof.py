"""What a gateway believes of the ledger: a signed head, that it continues the last one, and what is under it.

Source: RFC 6962 (inclusion, consistency), C2SP tlog-checkpoint and tlog-witness.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protos.contract.checkpoint import Checkpoint, CheckpointInvalid, verify_checkpoint
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.merkle import is_consistent, is_included, leaf_hash

APPROVAL_GIVEN = "approval.given"
PLAN_OFFERED = "plan.offered"
# Where an entry of each action names what it is about.
SUBJECT = {APPROVAL_GIVEN: "statement", PLAN_OFFERED: "digest"}
STALE_PROOF = "ledger_proof_stale"
MAX_RECORDS = 512
MAX_BODY = 1 << 20


class AnyProof(Protocol):
    """One entry with its inclusion proof, as a ``traffic.v1.LedgerProof`` is one."""

    @property
    def seq(self) -> int:
        """The entry's number."""

    @property
    def body(self) -> bytes:
        """What the tree commits to."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """From the leaf up."""


@dataclass(frozen=True, slots=True)
class EntryProof:
    """A proof that needs no message classes."""

    seq: int
    body: bytes
    hashes: tuple[bytes, ...]


class LedgerRefused(Exception):
    """A ledger head or proof cannot be relied on. ``reason`` is a closed code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the ledger has statements and plans: entry numbers by digest."""

    approvals: dict[str, int]
    plans: dict[str, int]


def ledger_origin(deployment: str) -> str:
    """Return the name that a deployment's ledger goes by in its checkpoints."""
    return f"interlock/{deployment}"


def next_head(
    held: Checkpoint | None,
    text: str,
    consistent_from: int,
    proof: Sequence[bytes],
    deployment: str,
    key: Ed25519PublicKey,
) -> Checkpoint:
    """Return the head that a checkpoint states, once it is shown to continue the one held.

    Raises:
        LedgerRefused: ``ledger_unsigned``: no checkpoint, or not by this key; ``ledger_rolled_back``: fewer
            entries than were seen before; ``ledger_forked``: not the same entries; ``ledger_proof_stale``:
            a proof from another head than the one held, which asking again mends.
    """
    head = signed_head(text, deployment, key)
    if held is None:
        return head
    if head.size < held.size:
        raise LedgerRefused("ledger_rolled_back", f"the ledger has {head.size} entries, {held.size} were seen before")
    if head.size == held.size:
        if head.root != held.root:
            raise LedgerRefused("ledger_forked", f"two ledgers of {head.size} entries are signed")
        return head
    if consistent_from != held.size:
        raise LedgerRefused(STALE_PROOF, f"the proof starts at {consistent_from} entries, expected {held.size}")
    if not is_consistent(held.size, held.root, head.size, head.root, proof):
        raise LedgerRefused("ledger_forked", f"the ledger of {head.size} entries does not continue that of {held.size}")
    return head


def signed_head(text: str, deployment: str, key: Ed25519PublicKey) -> Checkpoint:
    """Read a checkpoint of a deployment's ledger; raises LedgerRefused ``ledger_unsigned``."""
    try:
        return verify_checkpoint(text, ledger_origin(deployment), key)
    except CheckpointInvalid as error:
        raise LedgerRefused("ledger_unsigned", f"ledger checkpoint: {error}") from error


def recorded(records: Iterable[AnyProof], head: Checkpoint, most: int = MAX_RECORDS) -> Recorded:
    """Return what is proved to be under a head; one proof that fails refuses all.

    Raises:
        LedgerRefused: ``ledger_proof_invalid``.
    """
    found: dict[str, dict[str, int]] = {APPROVAL_GIVEN: {}, PLAN_OFFERED: {}}
    for i, record in enumerate(records):
        if i >= most or len(record.body) > MAX_BODY:
            raise LedgerRefused("ledger_proof_invalid", f"more than {most} records, or one too long")
        if not is_included(leaf_hash(record.body), record.seq, head.size, list(record.hashes), head.root):
            raise LedgerRefused("ledger_proof_invalid", f"entry {record.seq} is not in the ledger of {head.size}")
        try:
            said = parse_json_object(record.body)
            action, detail = said["action"], said["detail"]
            if said["seq"] != record.seq:
                raise ValueError(f"it says it is entry {said['seq']!r}")
            if action in SUBJECT:
                # The first record counts: a second one of the same statement makes it no younger.
                found[action].setdefault(str(detail[SUBJECT[action]]), record.seq)
        except (JsonMalformed, KeyError, TypeError, ValueError) as error:
            raise LedgerRefused("ledger_proof_invalid", f"entry {record.seq} cannot be read: {error}") from error
    return Recorded(found[APPROVAL_GIVEN], found[PLAN_OFFERED])
