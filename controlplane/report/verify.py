"""Check a rollout's evidence offline: every file, signature, plan and ledger entry, with nothing but keys in hand.

``python -m controlplane.report.verify FOLDER --plan-key KEY`` runs on a bare checkout with the package
``cryptography`` and the standard library.
"""

import argparse
import base64
import binascii
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.report.claims import ClaimFalse, check_claims
from controlplane.report.words import answered
from protos.contract.attestation import (
    Approval,
    AttestationInvalid,
    KeyInvalid,
    Operators,
    read_public,
    verify_approval,
)
from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_bytes, parse_json_object
from protos.contract.engines import REMOTE_KINDS
from protos.contract.envelope import Signature, SignedPayload, native, signer_of
from protos.contract.fields import FieldInvalid
from protos.contract.ledger_proof import EntryProof, LedgerRefused, Recorded, recorded, signed_head
from protos.contract.operators import signed_payload
from protos.contract.plan import TrafficPlan
from protos.contract.plan_rules import PlanRefused, check_approvals, check_plan, open_plan

SCHEMA = "interlock.evidence/1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MANIFEST_TYPE = "application/vnd.interlock.evidence+json"
MOST_BYTES = 64 << 20
MOST_NAMED = 5  # wrong files told at once


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, and what was found."""

    name: str
    ok: bool
    detail: str


class EvidenceInvalid(Exception):
    """A part of the evidence is missing, altered or does not fit the rest."""


_TROUBLE = (
    EvidenceInvalid,
    ClaimFalse,
    AttestationInvalid,
    LedgerRefused,
    PlanRefused,
    FieldInvalid,
    DigestMalformed,
    JsonMalformed,
    KeyInvalid,
    binascii.Error,
    OSError,
    KeyError,
    TypeError,
    ValueError,
)


def verify_evidence(
    directory: Path, plan_key: Ed25519PublicKey, operators: Operators | None, deployment: str | None
) -> list[Check]:
    """Verify what ``interlock evidence build`` wrote.

    Args:
        plan_key: The control plane's public key, from somewhere other than the evidence.
        operators: Who may approve. None takes the list in the evidence, which proves only that it fits itself.
        deployment: The expected audience; None takes the manifest's.
    Returns:
        One entry a check, in order; later ones are left out when the files themselves are not whole.
    """
    checks: list[Check] = []

    def run(name: str, work: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, work()))
        except _TROUBLE as error:
            said = str(error) if not isinstance(error, KeyError) else f"field {error} is missing"
            checks.append(Check(name, False, said))
        return checks[-1].ok

    evidence = _Evidence(directory, plan_key, operators, deployment)
    if run("signature", evidence.signature) and run("files", evidence.files) and run("operators", evidence.people):
        run("evaluation", evidence.evaluation)
        run("statements", evidence.statements)
        run("approvals", evidence.approvals)
        run("plans", evidence.plans)
        run("ledger", evidence.ledger)
    return checks


class _Evidence:
    def __init__(
        self, directory: Path, plan_key: Ed25519PublicKey, operators: Operators | None, deployment: str | None
    ) -> None:
        self._root = directory
        self._plan_key = plan_key
        self._operators = operators
        self._deployment = deployment
        self._manifest: dict[str, Any] = {}

    def files(self) -> str:
        """Check that every file is the one its manifest names, and that there is no other."""
        self._manifest = self._whole("")
        if self._manifest["step"] != "whole":
            raise EvidenceInvalid(f"manifest step is {self._manifest['step']!r}, expected 'whole'")
        steps = sorted({Path(name).parts[1] for name in self._manifest["files"] if name.startswith("steps/")})
        for step in steps:
            inner = self._whole(f"steps/{step}")
            for name in ("rollout", "bundle", "suite"):
                if inner[name] != self._manifest[name]:
                    raise EvidenceInvalid(f"steps/{step} names {name} {inner[name]!r}")
        self._deployment = self._deployment or self._manifest["deployment"]
        if self._deployment != self._manifest["deployment"]:
            raise EvidenceInvalid(f"evidence is of {self._manifest['deployment']!r}, expected {self._deployment!r}")
        return f"{len(self._manifest['files'])} files, {len(steps)} steps: {', '.join(steps) or 'none'}"

    def signature(self) -> str:
        """Check that the control plane signed the manifest, and so every file."""
        key = native(self._plan_key)
        data = (self._root / SIGNATURE).read_bytes()
        said = self._json(SIGNATURE)
        signature = Signature(str(said["keyid"]), base64.b64decode(said["sig"], validate=True))
        expected = {"keyid": digest_bytes(self._plan_key.public_bytes_raw()), "sig": said["sig"]}
        if base64.b64encode(signature.sig).decode() != said["sig"] or canonical_json(expected) != data:
            raise EvidenceInvalid(f"{SIGNATURE} is not as a control plane with this key writes it")
        envelope = SignedPayload((self._root / MANIFEST).read_bytes(), MANIFEST_TYPE, (signature,))
        try:
            signer_of(envelope, MANIFEST_TYPE, [key])
        except AttestationInvalid as error:
            raise EvidenceInvalid(f"{MANIFEST} is not what {SIGNATURE} signs, or by another key") from error
        return f"manifest {digest_bytes(envelope.payload)[:19]} signed by {key.text[:24]}"

    def people(self) -> str:
        """Choose who may approve."""
        if self._operators is not None:
            return f"{len(self._operators.people)} people, from your file"
        self._operators = Operators.from_json(self._json("operators.json"))
        return f"{len(self._operators.people)} people, as the evidence itself says"

    def evaluation(self) -> str:
        """Check that the evaluation accepted this bundle by the locked suite."""
        steps = self._steps()
        if not steps:
            return "no step was put up for approval"
        for step in steps:
            body, bundle = self._json(f"{step}/evaluation.json"), self._json(f"{step}/bundle.json")
            for name in ("evaluation", "suite", "bundle"):
                digest = digest_bytes((self._root / step / f"{name}.json").read_bytes())
                if digest != self._manifest[name]:
                    raise EvidenceInvalid(f"{step}: {name} hashes to {digest}, expected {self._manifest[name]}")
            if (body["suite_digest"], body["candidate"]) != (self._manifest["suite"], self._manifest["bundle"]):
                raise EvidenceInvalid(f"{step}: the evaluation is of another suite or bundle")
            if body["accepted"] is not True:
                raise EvidenceInvalid(f"{step}: the evaluation did not accept the bundle")
            if bundle["lineage"].get("suite") not in (None, self._manifest["suite"]):
                raise EvidenceInvalid(f"{step}: the bundle was trained under another suite")
            told = _elsewhere(step, bundle, body)
        return f"accepted by suite {self._manifest['suite'][:19]}{told}"

    def statements(self) -> str:
        """Check what is stated of the bundle's training, evaluation and materials against the files it is stated of."""
        told = [check_claims(self._root / step, native(self._plan_key)) for step in self._steps()]
        return told[-1] if told else "no step was put up for approval"

    def approvals(self) -> str:
        """Check every approval, and that those of this rollout name the evidence that is here."""
        shown = {digest_bytes((self._root / step / MANIFEST).read_bytes()) for step in self._steps()}
        mine = []
        for envelope in self._envelopes("approvals"):
            approval = verify_approval(envelope, self._people)
            if approval.audience != self._deployment:
                raise EvidenceInvalid(f"approval {approval.digest} is for {approval.audience!r}")
            if approval.rollout == self._manifest["rollout"]:
                mine.append(approval)
                if approval.evidence not in shown or approval.suite != self._manifest["suite"]:
                    raise EvidenceInvalid(f"approval {approval.digest} speaks of evidence that is not here")
        return "; ".join(f"{a.person}: {a.step} up to {a.ceiling_bp} bp" for a in _in_time(mine)) or "none given"

    def plans(self) -> str:
        """Apply every plan that gateways took, in order, by the rules the gateways use."""
        known = self._recorded()
        approvals = check_approvals(self._envelopes("approvals"), self._people, known.approvals)
        before: TrafficPlan | None = None
        taken, refused = [], 0
        for path in sorted((self._root / "plans").glob("*.json")) if (self._root / "plans").is_dir() else []:
            said = parse_json_object(path.read_bytes())
            state = said.pop("state")
            envelope = signed_payload(said)
            plan = open_plan(envelope, self._plan_key)
            if state == "refused":
                refused += 1
                continue
            if digest_bytes(envelope.payload) not in known.plans:
                raise EvidenceInvalid(f"plan {plan.generation} is not in the ledger")
            check_plan(before, plan, approvals, self._people, str(self._deployment), plan.created_at)
            before = plan
            taken.append(plan.generation)
        return f"{len(taken)} plans stand up: {', '.join(map(str, taken))}" + (
            f"; {refused} refused" if refused else ""
        )

    def ledger(self) -> str:
        """Check the signed head, and that every entry is under it."""
        said = self._json("ledger.json")
        head = signed_head(said["checkpoint"], str(self._deployment), self._plan_key)
        self._recorded()
        return f"{len(said['entries'])} entries under a signed head of {head.size}"

    def _recorded(self) -> Recorded:
        """Return what the ledger is proved to hold."""
        said = self._json("ledger.json")
        head = signed_head(said["checkpoint"], str(self._deployment), self._plan_key)
        proofs = [
            EntryProof(entry["seq"], entry["body"].encode(), tuple(bytes.fromhex(node) for node in entry["proof"]))
            for entry in said["entries"]
        ]
        return recorded(proofs, head, most=len(proofs))

    @property
    def _people(self) -> Operators:
        assert self._operators is not None
        return self._operators

    def _steps(self) -> list[str]:
        folder = self._root / "steps"
        return [f"steps/{path.name}" for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return parse_json_object((self._root / name).read_bytes())
        except JsonMalformed as error:
            raise EvidenceInvalid(f"{name}: {error}") from error

    def _envelopes(self, folder: str) -> list[SignedPayload]:
        path = self._root / folder
        return [signed_payload(self._json(f"{folder}/{p.name}")) for p in sorted(path.glob("*.json"))]

    def _whole(self, folder: str) -> dict[str, Any]:
        root = self._root / folder
        manifest = self._json(str(Path(folder) / MANIFEST))
        if manifest["schema"] != SCHEMA:
            name = Path(folder) / MANIFEST
            raise EvidenceInvalid(f"{name} has schema {manifest['schema']!r}, expected {SCHEMA!r}")
        own = {MANIFEST} if folder else {MANIFEST, SIGNATURE}
        present = {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}
        listed = dict(manifest["files"])
        wrong = [f"{Path(folder) / name} is extra" for name in sorted(present - set(listed) - own)]
        wrong += [f"{Path(folder) / name} is missing" for name in sorted({*listed, *own} - present)]
        for name in sorted(set(listed) & present):
            path = root / name
            if path.is_symlink() or path.stat().st_size > MOST_BYTES:
                wrong.append(f"{Path(folder) / name} is a link or too large")
            elif (found := digest_bytes(path.read_bytes())) != listed[name]:
                wrong.append(f"{Path(folder) / name} hashes to {found}, expected {listed[name]}")
        if wrong:
            more = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
            raise EvidenceInvalid("; ".join(wrong[:MOST_NAMED]) + more)
        return manifest


def _elsewhere(step: str, bundle: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Check that an evaluation says which servers answered for a bundle that belongs on one, and for no other."""
    backend, said = bundle["engine"]["backend"], evaluation.get("elsewhere", {}).get("candidate")
    if (said is None) == (backend in REMOTE_KINDS) or (said is not None and said["backend"] != backend):
        raise EvidenceInvalid(f"{step}: the bundle is for {backend!r}, and the evaluation says {said} answered for it")
    return "" if said is None else f". {answered('candidate', said)}"


def _in_time(approvals: list[Approval]) -> list[Approval]:
    return sorted(approvals, key=lambda a: (a.not_before, a.person))


def main(arguments: list[str] | None = None) -> int:
    """Verify a folder and print what was found; 0 where every check holds, 1 where one does not, 2 for wrong use."""
    parser = argparse.ArgumentParser("python -m controlplane.report.verify", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plan-key", type=Path, required=True, help="the control plane's public key")
    parser.add_argument("--operators", type=Path, help="who may approve, from a source you trust")
    parser.add_argument("--deployment", help="the deployment it has to be of")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    if not chosen.folder.is_dir():
        parser.error(f"{chosen.folder} is no folder, expected that of a rollout's evidence")
    try:
        people = None if chosen.operators is None else Operators.read(chosen.operators)
        checks = verify_evidence(chosen.folder, read_public(chosen.plan_key), people, chosen.deployment)
    except (FieldInvalid, JsonMalformed, KeyInvalid) as error:
        print(error, file=sys.stderr)
        return 2
    good = bool(checks) and all(check.ok for check in checks)
    if chosen.json:
        listed = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        print(json.dumps({"verified": good, "checks": listed}, indent=1))
    else:
        for check in checks:
            print(f"{'ok    ' if check.ok else 'FAILED'} {check.name:11} {check.detail}")
        print("verified" if good else "NOT verified")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
