"""Evidence: where it lies, and an exit code that says whether it holds."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protos.contract.attestation import generate_key
from tests.controlplane.cli.fake import OTHER, FakeControl, interlock, said


@dataclass
class Check:
    name: str
    ok: bool
    detail: str


GOOD, BAD = Check("files", True, "3 [/files]"), Check("ledger", False, "not under the head")


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[str, ...]:
    generate_key(tmp_path / "plan.key")
    return ("evidence", "verify", str(tmp_path), "--plan-key", str(tmp_path / "plan.key.pub"))


@pytest.mark.parametrize(
    ("checks", "code"), [([GOOD], 0), ([GOOD, BAD], 1), ([], 1)], ids=["all good", "one bad", "none made"]
)
def test_evidence_holds_only_when_every_check_does_and_there_is_one(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, checks: list[Check], code: int
) -> None:
    module: Any = ModuleType("controlplane.report.verify")
    module.verify_evidence = lambda folder, key, operators, deployment: checks
    monkeypatch.setitem(sys.modules, "controlplane.report.verify", module)
    found_code, found = said(*arguments)
    assert (found_code, found["verified"], len(found["checks"])) == (code, code == 0, len(checks))
    found_code, text = interlock(*arguments)
    assert found_code == code and all(check.detail in text for check in checks)


def test_a_folder_without_evidence_does_not_verify(arguments: tuple[str, ...]) -> None:
    code, found = said(*arguments)
    assert (code, found["verified"], found["checks"][0]["ok"]) == (1, False, False)


def test_build_lists_files_only_where_it_can_see_them(control: FakeControl, tmp_path: Path) -> None:
    assert said("evidence", "build", "r-1")[1]["files"] == []
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "suite.json").write_text("{}")
    control.evidence.path = str(tmp_path)
    code, found = said("evidence", "build", "r-1")
    assert (code, found["digest"], found["files"]) == (0, OTHER, [{"name": "steps/suite.json", "bytes": 2}])
    assert "steps/suite.json" in interlock("evidence", "build", "r-1")[1]


def test_a_folder_that_is_not_there_is_wrong_use_and_the_one_that_is_not_is_named(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    none, empty = tmp_path / "none", tmp_path / "empty"
    empty.mkdir()
    wrong = (("evidence", "verify", str(none), *arguments[3:]), ("evidence", "show", str(none)))
    for words in (*wrong, ("evidence", "diff", str(empty), str(none)), ("evidence", "diff", str(none), str(empty))):
        code, found = said(*words)
        assert code == 2 and f"{none} is no folder" in found["error"]["message"], found


def test_a_request_handed_in_for_the_signed_statement_is_named(control: FakeControl, tmp_path: Path) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text('{"schema": "interlock.approval-request/1", "draft": {}}')
    code, found = said("approval", "submit", str(asked))
    assert code == 2 and f"{asked} is no signed statement" in found["error"]["message"], found
