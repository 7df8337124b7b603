"""Approving: what is shown, what is checked, what is signed."""

import json
from pathlib import Path
from typing import Any

import pytest

from protos import control_pb2
from protos.contract.attestation import Operators, generate_key, verify_approval
from protos.contract.digest import digest_json
from protos.contract.plan_rules import no_split_digest, to_split_digest
from tests.controlplane.cli.fake import BEFORE, NEW, OLD, OTHER, FakeControl, draft, interlock, said


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate_key(tmp_path / "ann.key")
    return tmp_path / "ann.key"


def approval(key: Path, *more: str, rollout: str = "r-1") -> tuple[str, ...]:
    return ("rollout", "approve", rollout, "--key", str(key), "--person", "ann", "--reason", "fine", *more)


def submitted(control: FakeControl) -> list[Any]:
    return control.of(control_pb2.SubmitApprovalRequest)


def test_approve_signs_what_it_was_shown(control: FakeControl, key: Path) -> None:
    code, found = said(*approval(key, "--yes", "--valid-for", "30m"))
    assert (code, found["phase"]) == (0, "canary")
    text = key.with_name("ann.key.pub").read_text().strip()
    people = [{"person": "ann", "roles": ["approver"], "keys": [text]}]
    operators = Operators.from_json({"version": 1, "required_approvals": 1, "people": people})
    given = verify_approval(submitted(control)[0].envelope, operators)
    assert (given.person, given.reason, given.bundle, given.ceiling_bp) == ("ann", "fine", NEW, 5_000)
    assert given.expires - given.not_before == 1800
    assert len(given.nonce) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": OTHER},
        {"to_split": OTHER},
        {"from_split": OTHER},
        {"ceiling_bp": 10_000},
        {"specialist": "fraud"},
        {"step": "primary"},
        {"rollout": "r-2"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_approve_refuses_to_sign_a_draft_whose_digests_do_not_match_its_shapes(
    control: FakeControl, key: Path, changes: dict[str, Any]
) -> None:
    control.draft = draft(**changes)
    code, found = said(*approval(key, "--yes"))
    assert (code, found["error"]["status"]) == (1, "DATA_LOSS")
    assert submitted(control) == []


def test_approve_refuses_to_sign_a_draft_that_allows_more_than_was_asked(control: FakeControl, key: Path) -> None:
    code, found = said(*approval(key, "--yes", "--ceiling", "100"))
    assert (code, found["error"]["status"]) == (1, "DATA_LOSS")
    assert "allows 5000 bp, expected up to 100" in found["error"]["message"]
    assert submitted(control) == []


def test_a_ceiling_below_the_first_stage_is_wrong_use_and_not_signed(control: FakeControl, key: Path) -> None:
    control.draft = draft(ceiling_bp=30, to_split=to_split_digest(BEFORE, 30))
    control.draft.ceiling_bp = 30
    code, found = said(*approval(key, "--yes", "--ceiling", "30"))
    assert (code, found["error"]["status"]) == (2, "INVALID_ARGUMENT")
    assert "--ceiling is 30 basis points (0.3 %), less than the first stage of canary" in found["error"]["message"]
    assert submitted(control) == []


def test_approve_refuses_to_sign_for_a_rollout_that_nobody_named(control: FakeControl, key: Path) -> None:
    assert said(*approval(key, "--yes", rollout="r-9"))[1]["error"]["status"] == "DATA_LOSS"
    assert submitted(control) == []
    assert said(*approval(key, "--yes", rollout="brand"))[0] == 0


def test_approve_refuses_a_draft_that_is_no_statement(control: FakeControl, key: Path) -> None:
    control.draft.statement = b"{}"
    assert said(*approval(key, "--yes"))[1]["error"]["status"] == "DATA_LOSS"
    assert submitted(control) == []


def test_the_first_bundle_is_approved_from_nothing(control: FakeControl, key: Path) -> None:
    shape = {**BEFORE.shape(), "primary": NEW, "candidate": None}
    to_split = digest_json({**shape, "ceiling_bp": 10_000})
    first = {"step": "bootstrap", "from_split": no_split_digest("brand"), "to_split": to_split, "ceiling_bp": 10_000}
    control.draft = draft(**first)
    control.draft.step, control.draft.ceiling_bp, control.draft.from_shape_json = "bootstrap", 10_000, ""
    control.draft.to_shape_json = json.dumps(shape)
    assert said(*approval(key, "--yes"))[0] == 0
    assert f"primary none → {NEW}" in interlock(*approval(key, "--yes"))[1]


def test_a_person_is_shown_what_the_signature_covers_whatever_the_summary_says(control: FakeControl, key: Path) -> None:
    control.draft.summary = "a harmless change\x1b[8m"
    code, text = interlock(*approval(key), given="n\n")
    assert code == 1 and submitted(control) == []
    assert "a harmless change\\x1b[8m" in text
    assert "canary of brand in prod, rollout r-1" in text
    assert f"for {NEW} by trainer, up to 50 % of requests, for 1h" in text
    assert f"primary {OLD}\n" in text and f"candidate {NEW}\n" in text


def test_approve_signs_nothing_without_a_yes(control: FakeControl, key: Path) -> None:
    assert interlock(*approval(key), given="")[0] == 1
    assert said(*approval(key))[0] == 2
    assert submitted(control) == []
    assert interlock(*approval(key), given="y\n")[0] == 0
    assert len(submitted(control)) == 1


@pytest.mark.parametrize("text", ["forever", "0h", "31d", "-1h", "1w", "1h30m", "٣h"])
def test_an_approval_is_valid_for_a_time_up_to_30_days(control: FakeControl, key: Path, text: str) -> None:
    assert said(*approval(key, "--yes", f"--valid-for={text}"))[0] == 2
    assert control.asked == []


def test_a_key_that_others_can_read_is_warned_about(control: FakeControl, key: Path) -> None:
    assert "warning" not in interlock(*approval(key, "--yes"))[1]
    key.chmod(0o640)
    assert f"warning: {key} can be read by others" in interlock(*approval(key, "--yes"))[1]


@pytest.mark.parametrize("flag", [("--json",), ()], ids=["json", "table"])
def test_watch_looks_until_a_person_is_needed(control: FakeControl, flag: tuple[str, ...]) -> None:
    waits = control_pb2.Rollout(id="r-1", phase="canary", needs_approval_for="primary", required_approvals=2)
    control.rollouts = [control_pb2.Rollout(id="r-1", phase="shadow")] * 3 + [waits]
    code, text = interlock("rollout", "status", "brand", "--watch", *flag)
    assert code == 0 and "primary" in text and control.rollouts == [waits]


def test_a_command_on_a_rollout_carries_who_and_why(control: FakeControl) -> None:
    code, found = said("rollout", "rollback", "r-1", "--as", "ann", "--reason", "drill")
    assert (code, found["phase"]) == (0, "rolled_back")
    assert (control.asked[0].rollout, control.asked[0].person, control.asked[0].reason) == ("r-1", "ann", "drill")
    assert interlock("rollout", "rollback", "r-1")[0] == 2


def test_the_digest_checked_is_the_one_the_rules_compute() -> None:
    assert digest_json({**BEFORE.shape(), "ceiling_bp": 5_000}) == to_split_digest(BEFORE, 5_000)


def test_an_approval_that_counts_no_more_is_not_among_those_there_are(control: FakeControl) -> None:
    given = [
        control_pb2.ApprovalInfo(person="ann", step="primary", reason="fine", void_reason="key_revoked"),
        control_pb2.ApprovalInfo(person="bob", step="primary", reason="fine", expires="2026-11-28T12:00:00+00:00"),
    ]
    waits = control_pb2.Rollout(id="r-1", needs_approval_for="primary", required_approvals=2, approvals=given)
    control.rollouts = [waits, waits]
    text = interlock("rollout", "status", "r-1")[1]
    assert "has 1 of 2 approvals" in text and "no more: key_revoked" in text and "until 2026-11-28 12:00" in text
