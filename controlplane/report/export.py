"""Check an exported ledger with nothing but keys in hand: every entry, the signed head, who saw how much of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protos.contract.checkpoint import Checkpoint, CheckpointInvalid, verify_cosignature
from protos.contract.digest import JsonMalformed, parse_json_object
from protos.contract.ledger_proof import LedgerRefused, signed_head
from protos.contract.merkle import Trail, leaf_hash


class ExportInvalid(Exception):
    """The files are not the ledger that was signed, or a witness is missing."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export proved to be: its head, and how many entries each witness cosigned."""

    head: Checkpoint
    seen: Mapping[str, int]


def verify_export(
    folder: Path,
    key: Ed25519PublicKey,
    deployment: str,
    held: Sequence[str],
    witnesses: Mapping[str, Ed25519PublicKey],
) -> Exported:
    """Recompute the tree from ``entries.jsonl`` and hold it to every signed head.

    Args:
        held: Checkpoints kept elsewhere, each of which the ledger has to continue.
        witnesses: Who has to have cosigned a head of this ledger, by name.
    Raises:
        ExportInvalid: With the first contradiction found.
    """
    try:
        text = (folder / "checkpoint.txt").read_text("utf-8")
        head = signed_head(text, deployment, key)
        seen = _cosigned(folder, key, deployment, witnesses) if witnesses else {}
        claims = [head, *(signed_head(one, deployment, key) for one in held), *seen.values()]
        trail, roots = Trail(), {}
        wanted = {claim.size for claim in claims}
        with (folder / "entries.jsonl").open("rb") as file:
            for line in file:
                body = line.removesuffix(b"\n")
                if parse_json_object(body).get("seq") != trail.size:
                    raise ExportInvalid(f"entry {trail.size} is missing or out of place")
                trail.add(leaf_hash(body))
                if trail.size in wanted:
                    roots[trail.size] = trail.root()
    except (LedgerRefused, CheckpointInvalid, JsonMalformed, OSError) as error:
        raise ExportInvalid(str(error)) from error
    if trail.size != head.size:
        raise ExportInvalid(f"{trail.size} entries are here, the head covers {head.size}")
    for claim in sorted(claims, key=lambda c: c.size):
        if roots.get(claim.size) != claim.root:
            raise ExportInvalid(f"the first {claim.size} entries are not those of a signed checkpoint")
    return Exported(head, {name: claim.size for name, claim in seen.items()})


def _cosigned(
    folder: Path, key: Ed25519PublicKey, deployment: str, witnesses: Mapping[str, Ed25519PublicKey]
) -> dict[str, Checkpoint]:
    texts = parse_json_object((folder / "witnesses.json").read_bytes())
    found = {}
    for name, its_key in witnesses.items():
        text = texts.get(name)
        if not isinstance(text, str):
            raise ExportInvalid(f"{name!r} cosigned no head of this ledger")
        verify_cosignature(text, name, its_key)
        found[name] = signed_head(text, deployment, key)
    return found
