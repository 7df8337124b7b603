"""``interlock ledger prove``, ``cosign`` and ``export``: what others can hold the ledger's keeper to."""

import base64
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.cli.connection import CONTROL, ControlOption, control_at, governance_at
from controlplane.cli.ledger import app as app
from controlplane.cli.ledger import read_checkpoint
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, say, say_json
from controlplane.store.files import replace_file
from protos import control_pb2 as pb
from protos import governance_pb2
from protos.contract.attestation import read_private, read_public
from protos.contract.checkpoint import Checkpoint
from protos.contract.checkpoint import cosign as cosign_checkpoint
from protos.contract.digest import canonical_json, parse_json_object
from protos.contract.ledger_proof import LedgerRefused, next_head, signed_head
from protos.contract.merkle import is_included, leaf_hash


@app.command("prove")
@command
def prove(
    seq: Annotated[int, typer.Argument(min=0, help="Number of the entry.")],
    out: Annotated[Path | None, typer.Option(help="File for the proof; nothing is written without.")] = None,
    plan_key: Annotated[
        Path | None, typer.Option(help="The control plane's public key, from a source you trust.")
    ] = None,
    deployment: Annotated[str, typer.Option(help="The deployment's name.")] = "",
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Prove one entry under the signed head, and check the proof here."""
    if (plan_key is None) != (not deployment):
        raise Problem("--plan-key and --deployment check a head together", "INVALID_ARGUMENT", WRONG_USE)
    with governance_at(control) as server:
        head = server.GetHead(governance_pb2.GetHeadRequest(least_size=seq + 1))
        found = server.ProveEntry(governance_pb2.ProveEntryRequest(seq=seq, size=head.size))
    body = parse_json_object(found.body)
    checked = _checked_head(found.checkpoint, plan_key, deployment)
    said = checked or Checkpoint(*_unverified(found.checkpoint))
    if not is_included(leaf_hash(found.body), seq, said.size, list(found.hashes), said.root):
        raise Problem(f"entry {seq} is not under the head of {said.size} entries", "DATA_LOSS")
    proof = {
        "seq": seq,
        "body": body,
        "hashes": [node.hex() for node in found.hashes],
        "checkpoint": found.checkpoint,
        "signature_checked": checked is not None,
    }
    if out is not None:
        out.write_text(json.dumps(proof, indent=1) + "\n")
    if as_json:
        say_json(proof)
        return
    unchecked = "whose signature was NOT checked: give --plan-key and --deployment"
    whose = "whose signature was checked" if checked else unchecked
    say(f"entry {seq}, {body['action']} by {body['actor']}, is under the head of {said.size} entries, {whose}")


@app.command("cosign")
@command
def cosign(
    person: Annotated[str, typer.Option(help="You, as enrolled with the role auditor.")],
    key: Annotated[Path, typer.Option(help="Your private key.")],
    state: Annotated[Path, typer.Option(help="File that keeps the last head you saw; keep it to yourself.")],
    plan_key: Annotated[Path, typer.Option(help="The control plane's public key, from a source you trust.")],
    deployment: Annotated[str, typer.Option(help="The deployment's name.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """As a witness, check that the ledger only grew since you last looked, and sign that you saw it."""
    private, public = read_private(key), read_public(plan_key)
    held = _held(state, deployment, public)
    with governance_at(control) as server:
        head = server.GetHead(governance_pb2.GetHeadRequest(least_size=held.size if held else 0))
        proof: list[bytes] = []
        if held is not None and held.size < head.size:
            request = governance_pb2.ProveConsistencyRequest(old_size=held.size, new_size=head.size)
            proof = list(server.ProveConsistency(request).hashes)
        own = own_part(head.checkpoint)
        try:
            seen = next_head(held, own, held.size if held else 0, proof, deployment, public)
        except LedgerRefused as refused:
            raise Problem(f"{refused.reason}: {refused}; nothing was signed", "DATA_LOSS") from refused
        # Remembered before anybody is told: two signatures on two pasts are never given.
        replace_file(state, own.encode())
        name = f"auditor/{person}"
        text = own + cosign_checkpoint(own, name, private, int(time.time()))
        kept = server.Cosign(governance_pb2.CosignRequest(witness=name, checkpoint=text))
    names = list(kept.witnesses)
    if as_json:
        since = held.size if held else 0
        say_json({"size": seen.size, "root": seen.root.hex(), "from": since, "witnesses": names})
    else:
        grown = f"grew from {held.size} to" if held else "was not looked at before and has"
        say(f"the ledger {grown} {seen.size} entries; cosigned by {', '.join(names)}")


@app.command("export")
@command
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made when missing.")],
    control: ControlOption = CONTROL,
    as_json: JsonFlag = False,
) -> None:
    """Write every entry, the signed head and what each witness cosigned last, for `ledger verify --export` offline."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with control_at(control) as server, governance_at(control) as governance:
        head = governance.GetHead(governance_pb2.GetHeadRequest())
        with (folder / "entries.jsonl").open("wb") as file:
            while count < head.size:
                page = server.GetLedger(pb.GetLedgerRequest(from_seq=count, limit=1000)).entries
                for entry in page[: head.size - count]:
                    file.write(bytes(entry.body) + b"\n")
                    count += 1
    (folder / "checkpoint.txt").write_text(head.checkpoint)
    (folder / "witnesses.json").write_bytes(canonical_json({one.witness: one.checkpoint for one in head.seen}))
    seen = {one.witness: one.size for one in head.seen}
    if as_json:
        say_json({"folder": str(folder), "entries": count, "witnesses": seen})
    else:
        said = ", ".join(f"{name} ({size} entries)" for name, size in seen.items()) or "nobody yet"
        say(f"wrote {count} entries and their head into {folder}, cosigned by {said}")


def own_part(text: str) -> str:
    """Return a checkpoint with the ledger's own signature alone."""
    body, separator, tail = text.rpartition("\n\n")
    origin = body.split("\n", 1)[0]
    return body + separator + "".join(line for line in tail.splitlines(True) if line.startswith(f"— {origin} "))


def _held(state: Path, deployment: str, public: Ed25519PublicKey) -> Checkpoint | None:
    """Return the head that an auditor saw last; None at the first look."""
    if not state.exists():
        return None
    try:
        return signed_head(read_checkpoint(state), deployment, public)
    except LedgerRefused as refused:
        raise Problem(f"--state {state}: {refused}; nothing was signed", "INVALID_ARGUMENT", WRONG_USE) from refused


def _checked_head(text: str, plan_key: Path | None, deployment: str) -> Checkpoint | None:
    if plan_key is None or not deployment:
        return None
    try:
        return signed_head(text, deployment, read_public(plan_key))
    except LedgerRefused as refused:
        raise Problem(f"{refused.reason}: {refused}", "DATA_LOSS") from refused


def _unverified(text: str) -> tuple[int, bytes]:
    _, size, root, *_ = text.split("\n")
    return int(size), base64.b64decode(root)
