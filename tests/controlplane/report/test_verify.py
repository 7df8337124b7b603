"""Real evidence verifies on a bare checkout, and not with a byte, a file or a claim changed."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.rollout import Phase
from controlplane.errors import StepRefused
from controlplane.loop import advance, opening
from controlplane.loop.evidence import manifest_signature, step_evidence, whole_files
from controlplane.report.verify import verify_evidence
from controlplane.rpc.transactions import find_rollout
from controlplane.store import jobs
from protos.contract.attestation import Operators, read_private, read_public
from protos.contract.digest import canonical_json, digest_bytes, plain_canonical_json
from tests.controlplane.cli.fake import said
from tests.controlplane.governed import Governed, governed
from tests.controlplane.loop.fixture import NAME, ZERO

ROOT = Path(__file__).parents[3]
PROVENANCE: dict[str, Any] = {
    "code": ZERO, "version": "0.1.0", "python": "3.11.7", "libraries": {"torch": "2.13.0+cpu", "peft": "absent"},
    "platform": "Linux", "processor": "one", "cores": 2, "memory_mb": 1000, "key": ZERO,
}  # fmt: skip


def trained(site: Governed, bundle: str) -> None:
    """Have a job claim to have made the bundle, the suite locked before."""
    with site.deployment.store.writing(site.clock()) as unit:
        request = {"seed": 7, "reason": "first", "author": "trainer"}
        jobs.add(unit, {"id": "train-1", "kind": "train", "specialist": NAME, "request": request, "cause": "bootstrap"})
        unit.record("loop", "suite.locked", {"job": "train-1", "held_out": {"core": ZERO}})
        result = {"bundle_digest": bundle, "steps": 12, "losses": [0.9, 0.1], "provenance": PROVENANCE}
        jobs.finish(unit, "train-1", jobs.DONE, "", result)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    """Yield a deployment with one approved rollout, whose evidence is in ``evidence``."""
    root = tmp_path_factory.mktemp("site")
    with governed(root) as made:
        bundle = made.world.bundle(1)
        trained(made, bundle)
        name = made.proposed(bundle, None)
        control = ("--control", f"127.0.0.1:{made.port}")
        words = ("--key", str(root / "ann.key"), "--person", "ann", "--reason", "reads well", "--yes")
        assert said("rollout", "approve", name, *words, *control)[0] == 0
        plan = made.start_gateway()
        made.until(lambda: plan.generation == 1, "the first plan at the gateway")
        code, found = said("evidence", "build", name, "--out", str(root / "evidence"), *control)
        assert code == 0 and found["digest"] == digest_bytes((root / "evidence" / "manifest.json").read_bytes())
        yield made


@pytest.fixture
def folder(site: Governed, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(site.root / "evidence", tmp_path / "evidence"))


def failures(site: Governed, folder: Path) -> str:
    """Return what verification complains of; empty where it does not."""
    people = Operators.read(site.root / "operators.json")
    checks = verify_evidence(folder, read_public(site.root / "plan.key.pub"), people, "test")
    return "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.ok)


def test_what_was_built_verifies_and_holds_what_an_auditor_asks_for(site: Governed, folder: Path) -> None:
    assert failures(site, folder) == ""
    step = next((folder / "steps").iterdir())
    assert {p.name for p in step.iterdir()} >= {
        "bundle.json", "suite.json", "evaluation.json", "training.json", "provenance.intoto.json",
        "test-result.intoto.json", "mlbom.cdx.json", "shadow.json", "canary.json", "drops.json", "drift.json",
        "gates.json", "drill.json",
    }  # fmt: skip
    said_ = json.loads(base64.b64decode(json.loads((step / "provenance.intoto.json").read_bytes())["payload"]))
    made = said_["predicate"]["buildDefinition"]
    assert made["externalParameters"]["seed"] == 7
    assert {"uri": "pkg:pypi/torch@2.13.0%2Bcpu"} in made["resolvedDependencies"]
    actions = [
        json.loads(entry["body"])["action"] for entry in json.loads((folder / "ledger.json").read_bytes())["entries"]
    ]
    assert {"suite.locked", "approval.given", "plan.offered"} <= set(actions)


def test_the_bill_of_materials_is_a_cyclonedx_document(folder: Path) -> None:
    from cyclonedx.schema import SchemaVersion  # builds its grammars: seconds that collecting tests need not take
    from cyclonedx.validation.json import JsonStrictValidator

    text = next(folder.glob("steps/*/mlbom.cdx.json")).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_building_again_gives_the_same_bytes_however_long_the_ledger_has_grown(site: Governed, folder: Path) -> None:
    with site.deployment.store.writing(site.clock()) as unit:
        for n in range(5):
            unit.record("somebody", "other.thing", {"n": n})
        files, _ = whole_files(unit, site.deployment, find_rollout(unit, site.deployment, NAME))
    assert files == {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_any_changed_byte_of_any_file_is_found_and_the_file_named(site: Governed, folder: Path) -> None:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    assert len(files) > 20
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert str(path.relative_to(folder)) in failures(site, folder), (path, place)
        path.write_bytes(whole)
    assert failures(site, folder) == ""


def test_a_missing_and_an_extra_file_are_named(site: Governed, folder: Path) -> None:
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()]:
        whole = path.read_bytes()
        path.unlink()
        assert str(path.relative_to(folder)) in failures(site, folder)
        path.write_bytes(whole)
    for name in ("extra.txt", "steps/extra/manifest.json", "approvals/one.json"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        assert f"{name} is extra" in failures(site, folder)
        path.unlink()
        if name.startswith("steps"):
            path.parent.rmdir()
    assert failures(site, folder) == ""


def resigned(site: Governed, folder: Path) -> None:
    """List the files as they are now and sign that, as a control plane that lies would."""
    for root in [*(folder / "steps").iterdir(), folder]:
        manifest = json.loads((root / "manifest.json").read_bytes())
        for name in manifest["files"]:
            manifest["files"][name] = digest_bytes((root / name).read_bytes())
        (root / "manifest.json").write_bytes(canonical_json(manifest))
    (folder / "manifest.sig").write_bytes(
        manifest_signature((folder / "manifest.json").read_bytes(), read_private(site.root / "plan.key"))
    )


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "mlbom.cdx.json",
            lambda b: b["metadata"]["component"]["hashes"][0].update(content="0" * 64),
            "another bundle",
        ),
        ("bundle.json", lambda b: b["engine"].update(seed=99), "bundle hashes to"),
        ("evaluation.json", lambda b: b.update(accepted=False), "evaluation hashes to"),
        ("suite.json", lambda b: b.update(version=9), "suite hashes to"),
        ("provenance.intoto.json", lambda b: b.update(payload="e30="), "statements: no enrolled key"),
    ],
    ids=["materials", "bundle", "evaluation", "suite", "provenance"],
)
def test_the_control_plane_alone_cannot_make_another_story_of_it(
    site: Governed, folder: Path, name: str, change: Any, expected: str
) -> None:
    path = next(folder.glob(f"steps/*/{name}"))
    body = json.loads(path.read_bytes())
    change(body)
    path.write_bytes(canonical_json(body))
    resigned(site, folder)
    found = failures(site, folder)
    assert expected in found
    # Whoever approved signed the step's manifest as it was.
    assert "speaks of evidence that is not here" in found


def test_a_bare_checkout_verifies_with_cryptography_alone(site: Governed, folder: Path, tmp_path: Path) -> None:
    import _cffi_backend
    import cffi
    import cryptography

    beside = tmp_path / "beside"
    beside.mkdir()
    for module in (cryptography, cffi, _cffi_backend):
        path = Path(str(module.__file__))
        path = path.parent if path.name.startswith("__init__") else path
        os.symlink(path, beside / path.name)
    # -I and -S: neither this environment's packages nor variables are seen.
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(beside)!r}]; from controlplane.report.verify import main; "
        "code = main(sys.argv[1:]); "
        "assert not {'google', 'rfc8785', 'numpy', 'grpc', 'typer'} & set(sys.modules); sys.exit(code)"
    )
    command = [
        sys.executable, "-I", "-S", "-c", code, str(folder), "--plan-key", str(site.root / "plan.key.pub"),
        "--operators", str(site.root / "operators.json"), "--deployment", "test", "--json",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["verified"] is True
    (folder / "drill.json").write_text("{}")
    assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=False).returncode == 1


SIMPLE = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(SIMPLE)
def test_without_the_library_canonical_bytes_are_the_same(value: Any) -> None:
    assert plain_canonical_json(value) == canonical_json(value)


@pytest.mark.parametrize("value", [0.5, {"é": 1}, 2**53, [{"a": 1.0}]], ids=str)
def test_without_the_library_what_it_would_write_otherwise_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        plain_canonical_json(value)


def test_evidence_holds_the_suite_that_judged_and_no_rollout_starts_by_one_that_was_changed_since(
    tmp_path: Path,
) -> None:
    with governed(tmp_path) as made:
        bundle, late = made.world.bundle(1), made.world.bundle(2)
        name = made.proposed(bundle, None)
        made.accepted(late, None)
        row, pack = made.rollout(name), made.deployment.pack(NAME)
        pack.suite = replace(pack.suite, regressions_max_share=0.5)
        with made.deployment.store.writing(made.clock()) as unit:
            digest, path = step_evidence(unit, made.deployment, row, "bootstrap")
            advance.end(unit, made.deployment, name, Phase.REJECTED, "ann", "seen enough")
            with pytest.raises(StepRefused, match=f"judged by suite {row.suite}, but {pack.suite.digest} is in force"):
                opening.start(unit, made.deployment, NAME, late, "ops", None)
    assert (digest, digest_bytes((Path(path) / "suite.json").read_bytes())) == (row.evidence, row.suite)
