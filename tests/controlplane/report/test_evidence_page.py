"""The page of a rollout's evidence says what the files say, verdict first, and needs nothing but itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from controlplane.report.difference import difference
from controlplane.report.evidence import page
from controlplane.report.verify import Check
from protos.contract.attestation import Approval, generate_key, read_private, sign_approval
from protos.contract.digest import canonical_json
from protos.contract.operators import envelope_to_json
from tests.chromium import shown

ROLLOUT, OLD, NEW = "words-1", "sha256:" + "a" * 64, "sha256:" + "b" * 64
GOOD, BAD = Check("files", True, "9 files"), Check("ledger", False, "entry 3 is not under the head")


def score(value: float) -> dict[str, Any]:
    return {"value": value, "interval": {"low": value - 0.02, "high": value + 0.02}}


def approval(step: str, reason: str, **changes: Any) -> Approval:
    values = {
        "person": "ann", "specialist": "words", "rollout": ROLLOUT, "step": step, "bundle": NEW, "evidence": OLD,
        "suite": OLD, "from_split": OLD, "to_split": NEW, "ceiling_bp": 5000, "audience": "test",
        "not_before": 1_700_000_000, "expires": 1_700_003_600, "nonce": "n", "author": "trainer", "reason": reason,
        **changes,
    }  # fmt: skip
    return Approval(**values)


def evidence(root: Path, *, regressed: str = "plain text", **manifest: Any) -> Path:
    """Write a rollout's evidence as ``interlock evidence build`` lays it out."""

    def write(name: str, value: Any) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical_json(value))

    def entry(seq: int, action: str, **detail: Any) -> dict[str, Any]:
        at = f"2026-01-02T03:04:{seq:02d}.000000Z"
        body = {
            "v": 1,
            "seq": seq,
            "at": at,
            "actor": "ann",
            "action": action,
            "detail": {"rollout": ROLLOUT, **detail},
        }
        return {"seq": seq, "body": canonical_json(body).decode(), "proof": []}

    generate_key(root / "ann.key")
    for n, given in enumerate((approval("canary", "fewer misses <i>"), approval("canary", "another's", rollout="x"))):
        write(f"approvals/{n}.json", envelope_to_json(sign_approval(given, read_private(root / "ann.key"))))
    (root / "ann.key").unlink()
    (root / "ann.key.pub").unlink()
    entries = [
        entry(1, "rollout.started"),
        entry(2, "rollout.shadowing", shadow_bp=2000),
        entry(3, "rollout.shifted", canary_bp=1000),
        entry(4, "rollout.rolled_back"),
    ]
    write("ledger.json", {"checkpoint": "", "entries": entries})
    models = {
        name: {"accuracy": score(v), "mean_cost": score(1 - v)} for name, v in (("primary", 0.8), ("candidate", 0.9))
    }
    case = {
        "text": regressed, "label": "safe", "slice": "", "primary_decision": "allow", "candidate_decision": "block",
        "added_cost": 0.4,
    }  # fmt: skip
    step = "steps/canary.0123abcd"
    write(f"{step}/bundle.json", {"lineage": {"author": "trainer"}, "engine": {"backend": "openvino"}, "base": {}})
    write(
        f"{step}/evaluation.json",
        {
            "values": {"core": models},
            "sizes": {"core": 400},
            "gates": [
                {"text": "core accuracy: at least 0.85", "passed": True, "found": 0.9, "low": None, "high": None},
                {"text": "core regressions", "passed": False, "found": 0.1, "low": None, "high": None},
            ],
            "regressions_share": 0.1,
            "worst_regressions": [case],
        },
    )
    gate = {"verdict": "fail", "value": 0.7, "lower": 0.5, "upper": 0.8, "limit": 0.5, "sample": 96}
    write(f"{step}/gates.json", {"gates": [{"gate": "shadow_disagreement", **gate}]})
    reading = {"signal": "input", "verdict": "drift", "value": 0.8, "threshold": 0.5, "action": "retraining"}
    write(f"{step}/drift.json", {"readings": [{"at": "2026-01-01T00:00:00+00:00", **reading}]})
    about = {
        "rollout": ROLLOUT, "specialist": "words", "deployment": "test", "bundle": NEW, "primary": OLD, "suite": OLD,
        "phase": "rolled_back", "end_reason": "shadow_disagreement is 0.7", "rollback_ms": 63,
    }  # fmt: skip
    write("manifest.json", {**about, **manifest})
    return root


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?s)<style>.*?</style>|<[^>]+>", " ", text))


def test_the_outcome_comes_first_and_then_whether_it_was_verified(tmp_path: Path) -> None:
    folder = evidence(tmp_path)
    said = words(page(folder, [GOOD]))
    order = [
        "Evidence of rollout words-1", "Rolled back: shadow_disagreement is 0.7.", "63 ms after", "Verified: every",
        "How traffic moved", "Who let it through", "fewer misses", "core, 400 cases", "core accuracy: at least 0.85",
        "plain text", "shadow_disagreement fail", "retraining", "trainer", "How to verify this",
    ]  # fmt: skip
    places = [said.index(found) for found in order]
    assert places == sorted(places)
    assert "another's" not in said


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        (None, "Not verified: this page"),
        ([GOOD], "Verified: every"),
        ([GOOD, BAD], "NOT to be relied on"),
        ([], "NOT to be"),
    ],
    ids=["not asked", "good", "bad", "no check"],
)
def test_a_page_never_looks_verified_unless_every_check_held(
    tmp_path: Path, checks: list[Check] | None, expected: str
) -> None:
    said = words(page(evidence(tmp_path), checks))
    assert expected in said
    assert ("Verified: every check below holds" in said) is (checks == [GOOD])


@pytest.mark.parametrize(
    ("phase", "expected"),
    [("primary", "Promoted: the candidate"), ("rejected", "Rejected: "), ("canary", "Under way: canary.")],
)
def test_every_phase_has_its_sentence(tmp_path: Path, phase: str, expected: str) -> None:
    assert expected in words(page(evidence(tmp_path, phase=phase, rollback_ms=None), None))


def test_text_from_the_world_cannot_become_markup(tmp_path: Path) -> None:
    written = page(evidence(tmp_path, regressed="<script>alert(1)</script>", end_reason="<img src=x>"), None)
    assert "<script" not in written and "<img" not in written and "<i>" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written


def test_a_browser_without_a_network_shows_the_whole_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    (tmp_path / "evidence").mkdir()
    path.write_text(page(evidence(tmp_path / "evidence"), [GOOD]), "utf-8")
    document = shown(path, tmp_path / "profile")
    assert "How to verify this" in words(document)
    assert document.count("<svg") == 3
    assert not re.search(r"(src|href)=|url\(|@import|https?://", document)


def test_two_rollouts_differ_only_in_what_is_not_the_same(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    old = evidence(tmp_path / "a")
    new = evidence(tmp_path / "b", phase="primary", bundle=OLD)
    assert difference(old, old) == []
    found = {d.what: (d.before, d.after) for d in difference(old, new)}
    assert found == {"phase": ("rolled_back", "primary"), "bundle": (NEW, OLD)}
