"""The page of a rollout's evidence says what the files say, verdict first, and needs nothing but itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from controlplane.report.difference import difference, overview
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
    curve = [{"sure": 0.6, "right": 0.5, "cases": 10}, {"sure": 0.9, "right": 0.95, "cases": 90}]
    step = "steps/canary.0123abcd"
    bundle = {"lineage": {"author": "trainer"}, "engine": {"backend": "openvino"}, "base": {}}
    write(f"{step}/bundle.json", {**bundle, "task": {"description": "Says what words mean."}})
    write(
        f"{step}/evaluation.json",
        {
            "values": {"core": models},
            "sizes": {"core": 400},
            "reliability": {"core": {"candidate": curve, "control": curve}},
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
    budget = {"reference": 400, "window": 150, "false_alarm_rate": 0.05, "persistence": 2}
    decided = {
        "trigger": "drift",
        "code": "",
        "reason": "drift of input",
        "job": "train-1",
        "at": "2026-01-01T00:00:01Z",
    }
    drift = {"readings": [{"at": "2026-01-01T00:00:00+00:00", **reading}], "budget": budget, "retraining": [decided]}
    write(f"{step}/drift.json", drift)
    measured = {"value": 0.1, "lower": 0.05, "upper": 0.2, "sample": 50}
    names = ("in_time", "slower", "known_cost", "expected_cost_by_primary", "expected_cost_by_candidate")
    pairs = [("allow", "allow", 40), ("allow", "block", 10)]
    write(
        "shadow.json",
        {
            "pairs": 50,
            "failures": {"deadline": 2},
            "decisions": [{"primary": p, "candidate": c, "pairs": n} for p, c, n in pairs],
            **dict.fromkeys(names, measured),
        },
    )
    arm = {"arm": "canary", "bundle": NEW, "requests": 200, "unanswered": 3, "late": 4, "p50_ms": 5, "p99_ms": 20}
    write("canary.json", {"arms": [arm], "reliability": {"primary": [], "candidate": curve}})
    flow = {"offered": 60, "sent": 55, "paired": 50, "by_cause": {"shadow_queue_full": 5}}
    write(f"{step}/drops.json", {"shadow": flow, "capture": {"capture_queue_full": 7}})
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
        "Says what words mean.", "the candidate is right in 90.0 %, the primary before it in 80.0 %",
        "How traffic moved", "Who let it through", "I reviewed the evidence", "fewer misses", "core, 400 cases",
        "Does it know when it is right?",
        "core accuracy: at least 0.85", "plain text", "the same 50 requests", "differently in 10 (20.0 %)",
        "canary, candidate 200 3 (1.5 %) 4 (2.0 %)", "shadow_disagreement fail", "shadow_queue_full 5",
        "capture_queue_full 7", "1.6 times its threshold", "drift of input", "trainer", "21 CFR 11.50",
        "How to verify this",
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
    assert document.count("<svg") == 6
    assert not re.search(r"(src|href)=|url\(|@import|https?://", document)


def test_two_rollouts_differ_only_in_what_is_not_the_same(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    old = evidence(tmp_path / "a")
    new = evidence(tmp_path / "b", phase="primary", bundle=OLD)
    assert difference(old, old) == []
    found = {d.what: (d.before, d.after) for d in difference(old, new)}
    assert found == {"phase": ("rolled_back", "primary"), "bundle": (NEW, OLD)}


def test_two_approvals_of_one_person_are_both_told(tmp_path: Path) -> None:
    folder = evidence(tmp_path / "e")
    generate_key(tmp_path / "ann.key")
    given = sign_approval(approval("canary", "a little first", ceiling_bp=100), read_private(tmp_path / "ann.key"))
    (folder / "approvals" / "2.json").write_bytes(canonical_json(envelope_to_json(given)))
    assert overview(folder)["approval by ann of canary"] == "up to 50 %: fewer misses <i>; up to 1 %: a little first"
