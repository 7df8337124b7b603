"""Gather what a person is asked to approve, and later what an auditor needs, into directories of files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlplane.errors import StepRefused
from controlplane.loop import drill
from controlplane.loop.deployment import Deployment
from controlplane.store import ledger, observations, plans, records, rollouts
from controlplane.store.artifacts import MANIFEST
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.digest import canonical_json, digest_bytes, parse_json_object
from protos.contract.operators import envelope_to_json

SCHEMA = "interlock.evidence/1"


def step_evidence(unit: Unit, deployment: Deployment, row: RolloutRow, step: str) -> tuple[str, str]:
    """Write what speaks for one step, and return its digest and path.

    The digest is that of ``manifest.json``, which names every other file by digest.
    """
    found = rollouts.evaluation_row(unit, row.evaluation)
    manifest = deployment.bundles.manifest(row.state.candidate)
    pack = deployment.pack(row.state.specialist)
    files = {
        "bundle.json": canonical_json(manifest.to_json()),
        "suite.json": canonical_json(pack.suite.to_json()),
        "evaluation.json": canonical_json(found.body),
        "gates.json": canonical_json({"phase": row.state.phase.value, "stage": row.state.stage, "gates": _gates(row)}),
        "drift.json": canonical_json({"readings": _drift(unit, row)}),
        "drill.json": canonical_json(drill.report(unit, row.state.id)),
    }
    if described := manifest.lineage.get("data_manifest"):
        # What it was trained on, and what the fence kept out of that.
        files["data.json"] = deployment.artifacts.get(str(described))
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
    """Write everything about a rollout: its steps' evidence, approvals, plans and ledger entries with proofs."""
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
    files["drill.json"] = canonical_json(drill.report(unit, row.state.id))
    files["operators.json"] = canonical_json(deployment.operators().to_json())
    files["ledger.json"] = canonical_json(_ledger(unit, deployment, row.state.id, [*signed, *offered_digests]))
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
    path = deployment.artifacts.put_directory(row.state.id, data)
    return digest, str(path)


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


def _gates(row: RolloutRow) -> list[dict[str, Any]]:
    return [
        {
            "gate": r.gate,
            "verdict": r.verdict.value,
            "value": r.value,
            "lower": r.lower,
            "upper": r.upper,
            "limit": r.limit,
            "sample": r.sample,
        }
        for r in row.gates
    ]


def _drift(unit: Unit, row: RolloutRow) -> list[dict[str, Any]]:
    if row.state.primary is None:
        return []
    readings = observations.readings(unit, row.state.specialist, row.state.primary, limit=20)
    return [
        {
            "signal": r.signal,
            "verdict": r.verdict,
            "value": r.value,
            "threshold": r.threshold,
            "sample": r.sample,
            "summary": r.summary,
            "action": r.action,
            "at": datetime.fromtimestamp(r.at_ms / 1000, UTC).isoformat(),
        }
        for r in readings
    ]


def _ledger(unit: Unit, deployment: Deployment, name: str, signed: list[str]) -> dict[str, Any]:
    """Return the entries that speak of a rollout and of whatever its plans rest on, each with its proof."""
    entries = {entry.seq: entry.body for entry in history(unit, name)}
    if not entries:
        raise StepRefused(f"the ledger says nothing of rollout {name!r}")
    for seq in records.seqs(unit, signed).values():
        entries[seq] = ledger.body_of(unit.connection, seq)
    size, _ = ledger.head(unit.connection)
    text = ledger.checkpoint(unit.connection, deployment.key, deployment.ledger_origin)
    return {
        "checkpoint": text,
        "entries": [
            {
                "seq": seq,
                "body": parse_json_object(body),
                "proof": [node.hex() for node in ledger.prove_inclusion(unit.connection, seq, size)],
            }
            for seq, body in sorted(entries.items())
        ],
    }
