"""Check what is stated of a bundle against the files that it is stated of."""

from pathlib import Path
from typing import Any

from controlplane.domain.bill_of_materials import FILE, SPEC_VERSION
from controlplane.domain.statements import (
    BUNDLE,
    DEPENDENCIES,
    MADE_ELSEWHERE,
    PROVENANCE,
    TEST_RESULT,
    digests_of,
)
from controlplane.report.files import read_json
from protos.contract.attestation import STATEMENT, STATEMENT_TYPE
from protos.contract.digest import digest_bytes, parse_json_object
from protos.contract.envelope import signer_of
from protos.contract.keys import PublicKey
from protos.contract.operators import signed_payload


class ClaimFalse(Exception):
    """A statement says other than the files it speaks of."""


def check_claims(step: Path, key: PublicKey) -> str:
    """Check a step's provenance, test result and bill of materials, and return what they say.

    Args:
        key: Of the control plane, whose signature the statements bear.
    Raises:
        ClaimFalse, AttestationInvalid: A statement does not fit, or is not signed by the key.
        FieldInvalid, JsonMalformed, KeyError, OSError: It cannot be read.
    """
    bundle, evaluation = read_json(step / "bundle.json"), read_json(step / "evaluation.json")
    digest = digest_bytes((step / "bundle.json").read_bytes())
    subject = {BUNDLE: digest, **bundle["files"]}
    made = _statement(step / "provenance.intoto.json", PROVENANCE, subject, key)["buildDefinition"]
    tested = _statement(step / "test-result.intoto.json", TEST_RESULT, subject, key)
    _check_materials(step, made, bundle)
    passed = [gate["text"] for gate in evaluation["gates"] if gate["passed"] is True]
    failed = [gate["text"] for gate in evaluation["gates"] if gate["passed"] is False]
    if (tested["passedTests"], tested["failedTests"]) != (passed, failed):
        raise ClaimFalse(f"{step.name}/test-result.intoto.json tells other results than evaluation.json")
    if tested["result"] != ("PASSED" if evaluation["accepted"] else "FAILED"):
        raise ClaimFalse(f"{step.name}/test-result.intoto.json says {tested['result']!r}")
    if digests_of(tested["configuration"])["suite"] != evaluation["suite_digest"]:
        raise ClaimFalse(f"{step.name}/test-result.intoto.json is of another suite")
    parts = _check_bill(step, digest, bundle)
    how = "made elsewhere" if made["buildType"] == MADE_ELSEWHERE else "trained here"
    return (
        f"{how} from {len(made['resolvedDependencies'])} materials; {len(passed)} demands passed, "
        f"{len(failed)} failed; {parts} parts listed"
    )


def _statement(path: Path, kind: str, subject: dict[str, str], key: PublicKey) -> dict[str, Any]:
    envelope = signed_payload(read_json(path))
    signer_of(envelope, STATEMENT_TYPE, [key])
    said = parse_json_object(envelope.payload)
    where = f"{path.parent.name}/{path.name}"
    if (said["_type"], said["predicateType"]) != (STATEMENT, kind):
        raise ClaimFalse(f"{where} is a {said['predicateType']!r}, expected {kind!r}")
    if digests_of(said["subject"]) != subject:
        raise ClaimFalse(f"{where} speaks of another bundle")
    predicate: dict[str, Any] = said["predicate"]
    return predicate


def _check_materials(step: Path, made: dict[str, Any], bundle: dict[str, Any]) -> None:
    found = digests_of(made["resolvedDependencies"])
    named = {**bundle["lineage"], "base": bundle["base"].get("digest") if bundle["base"] else None}
    expected = {name: named[key] for key, name in DEPENDENCIES.items() if named.get(key)}
    if (step / "data.json").exists():
        expected["data-manifest"] = digest_bytes((step / "data.json").read_bytes())
    for name, digest in expected.items():
        if found.get(name) != digest:
            raise ClaimFalse(f"{step.name}/provenance.intoto.json names {name} {found.get(name)!r}, expected {digest}")


def _check_bill(step: Path, digest: str, bundle: dict[str, Any]) -> int:
    bill = read_json(step / "mlbom.cdx.json")
    if (bill["bomFormat"], bill["specVersion"]) != ("CycloneDX", SPEC_VERSION):
        raise ClaimFalse(f"{step.name}/mlbom.cdx.json is no CycloneDX {SPEC_VERSION} document")
    model = bill["metadata"]["component"]
    files = {one["bom-ref"].removeprefix(FILE): _sha256(one) for one in model["components"]}
    if _sha256(model) != digest or files != bundle["files"]:
        raise ClaimFalse(f"{step.name}/mlbom.cdx.json lists another bundle")
    return len(files) + len(bill["components"])


def _sha256(component: dict[str, Any]) -> str:
    content: str = next(one["content"] for one in component["hashes"] if one["alg"] == "SHA-256")
    return f"sha256:{content}"
