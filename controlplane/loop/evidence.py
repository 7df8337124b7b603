"""Gather what a person is asked to approve, and later what an auditor needs, into directories of files."""

import base64
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.errors import StepRefused
from controlplane.loop import drill
from controlplane.loop.deployment import Deployment
from controlplane.loop.evidence_parts import about_bundle, about_traffic, entries_about, gates_json
from controlplane.store import ledger, plans, records, rollouts
from controlplane.store.artifacts import MANIFEST
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.attestation import sign
from protos.contract.digest import canonical_json, digest_bytes
from protos.contract.operators import envelope_to_json

SCHEMA = "interlock.evidence/1"
SIGNATURE = "manifest.sig"
MANIFEST_TYPE = "application/vnd.interlock.evidence+json"


def step_evidence(unit: Unit, deployment: Deployment, row: RolloutRow, step: str) -> tuple[str, str]:
    """Write what speaks for one step, and return its digest and path.

    The digest is that of ``manifest.json``, which names every other file by digest.
    """
    found = rollouts.evaluation_row(unit, row.evaluation)
    files = {
        **about_bundle(unit, deployment, row, found.body),
        **about_traffic(unit, deployment, row),
        "gates.json": canonical_json(
            {"phase": row.state.phase.value, "stage": row.state.stage, "gates": gates_json(row)}
        ),
        "drill.json": canonical_json(drill.report(unit, row.state.id)),
    }
    data, digest = _with_manifest(
        files,
        {
            "deployment": deployment.name,
            "rollout": row.state.id,
            "specialist": row.state.specialist,
            "step": step,
            "bundle": row.state.candidate,
            "primary": row.state.primary,
            "suite": row.suite,
            "evaluation": row.evaluation,
        },
    )
    path = deployment.artifacts.put_directory(f"{row.state.id}.{step}.{digest[7:15]}", data)
    return digest, str(path)


def evidence_shown(row: RolloutRow) -> dict[str, bytes]:
    """Return the files of a step's evidence that its approver reads, as fields of an ApprovalDraft.

    Raises:
        StepRefused: They are gone from the artifact store.
    """
    folder = Path(row.evidence_path)
    names = {
        "evidence_manifest": MANIFEST,
        "evaluation_json": "evaluation.json",
        "gates_json": "gates.json",
        "drill_json": "drill.json",
    }
    try:
        return {field: (folder / name).read_bytes() for field, name in names.items() if (folder / name).exists()}
    except OSError as error:
        raise StepRefused(f"evidence {row.evidence} of rollout {row.state.id!r} cannot be read: {error}") from error


def whole_evidence(unit: Unit, deployment: Deployment, row: RolloutRow) -> tuple[str, str]:
    """Write everything about a rollout into the artifact store, and return its digest and path."""
    files, digest = whole_files(unit, deployment, row)
    return digest, str(deployment.artifacts.put_directory(row.state.id, files))


def whole_files(unit: Unit, deployment: Deployment, row: RolloutRow) -> tuple[dict[str, bytes], str]:
    """Return everything about a rollout by file name, and its digest: that of the manifest.

    Its steps' evidence, approvals, plans, what became of its traffic, ledger entries with proofs, and the control
    plane's signature. Of the same state it is the same bytes, whatever else the ledger has recorded since.
    """
    files: dict[str, bytes] = {}
    root = deployment.artifacts.root / "evidence"
    for path in sorted(root.glob(f"{row.state.id}.*")):
        for file in sorted(path.iterdir()):
            files[f"steps/{path.name.split('.', 1)[1]}/{file.name}"] = file.read_bytes()
    signed = {digest_bytes(e.payload): e for e in plans.approvals_of(unit, row.state.id)}
    offered = plans.after(unit, 0)
    mine = [plan for plan in offered if plan.rollout == row.state.id]
    # The plan before shows what the first of them was allowed to follow.
    standing = [p for p in offered if p.state != plans.REFUSED and mine and p.generation < mine[0].generation]
    offered_digests = [plan.digest for plan in [*standing[-1:], *mine]]
    for plan in [*standing[-1:], *mine]:
        files[f"plans/{plan.generation:06d}.json"] = canonical_json(
            {**envelope_to_json(plan.envelope), "state": plan.state}
        )
        signed |= {digest_bytes(e.payload): e for e in plans.approvals_for(unit, plan.plan)}
    for digest, envelope in signed.items():
        files[f"approvals/{digest[7:]}.json"] = canonical_json(envelope_to_json(envelope))
    if mine:
        files["shadow.json"], files["canary.json"] = (
            about_traffic(unit, deployment, row)[name] for name in ("shadow.json", "canary.json")
        )
        files["gates.json"] = canonical_json({"phase": row.state.phase.value, "gates": gates_json(row)})
    files["drill.json"] = canonical_json(drill.report(unit, row.state.id))
    files["operators.json"] = canonical_json(deployment.operators().to_json())
    files["ledger.json"] = canonical_json(_ledger(unit, deployment, row, [*signed, *offered_digests]))
    data, digest = _with_manifest(
        files,
        {
            "deployment": deployment.name,
            "rollout": row.state.id,
            "specialist": row.state.specialist,
            "step": "whole",
            "bundle": row.state.candidate,
            "primary": row.state.primary,
            "suite": row.suite,
            "evaluation": row.evaluation,
            "phase": row.state.phase.value,
            "end_reason": row.end_reason,
            "rollback_ms": row.rollback_ms,
        },
    )
    return {**data, SIGNATURE: manifest_signature(data[MANIFEST], deployment.key)}, digest


def manifest_signature(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return ``manifest.sig``: DSSE's signature over the manifest, apart from it so that it stays readable."""
    signature = sign(manifest, MANIFEST_TYPE, key).signatures[0]
    return canonical_json({"keyid": signature.key_id, "sig": base64.b64encode(signature.sig).decode()})


def history(unit: Unit, name: str) -> list[ledger.Entry]:
    """Return the ledger entries that speak of a rollout."""
    found: list[ledger.Entry] = []
    start = 0
    while batch := ledger.entries(unit.connection, start, 1000):
        found += [entry for entry in batch if entry.detail.get("rollout") == name]
        start = batch[-1].seq + 1
    return found


def _with_manifest(files: dict[str, bytes], about: dict[str, Any]) -> tuple[dict[str, bytes], str]:
    manifest = canonical_json(
        {"schema": SCHEMA, **about, "files": {name: digest_bytes(data) for name, data in sorted(files.items())}}
    )
    return {**files, MANIFEST: manifest}, digest_bytes(manifest)


def _ledger(unit: Unit, deployment: Deployment, row: RolloutRow, signed: list[str]) -> dict[str, Any]:
    """Return the entries that speak of a rollout, its bundle and whatever its plans rest on, each with its proof."""
    entries = {entry.seq for entry in history(unit, row.state.id)}
    if not entries:
        raise StepRefused(f"the ledger says nothing of rollout {row.state.id!r}")
    entries |= {entry.seq for entry in entries_about(unit, row)}
    entries |= set(records.seqs(unit, signed).values())
    # The first head signed over all of them stays the first one, however long the ledger grows.
    found = ledger.first_checkpoint(unit.connection, max(entries) + 1)
    if found is None:
        text = ledger.checkpoint(unit.connection, deployment.key, deployment.ledger_origin)
        found = ledger.head(unit.connection)[0], text
    size, text = found
    return {
        "checkpoint": text,
        "entries": [
            {
                "seq": proof.seq,
                "body": proof.body.decode(),  # the very bytes under the tree
                "proof": [node.hex() for node in proof.hashes],
            }
            for proof in ledger.prove(unit.connection, sorted(entries), size)
        ],
    }
