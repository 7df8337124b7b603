"""What every command has in common: help, JSON, exit codes, and words that are only words."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer.main

from controlplane.cli.app import app
from controlplane.cli.output import say, table
from controlplane.cli.processes import Front
from gateway.settings import FRONTS
from protos import control_pb2
from tests.controlplane.cli.fake import OLD, FakeControl, interlock, said

PATIENCE_S = 20.0


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_offers_json_and_says_what_it_and_its_options_do(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert any("--json" in parameter.opts for parameter in command.params)
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []
    code, text = interlock(*path, "--help")
    assert code == 0 and "Usage" in text


def test_the_commands_a_user_was_promised_exist() -> None:
    promised = (
        "access add, access remove, access list, "
        "bundle build, bundle diff, bundle export, bundle gc, bundle inspect, bundle train, bundle verify, "
        "approval request, approval sign, approval submit, decision show, rollout drill, rollout watch, "
        "ledger prove, ledger cosign, "
        "ledger export, operator enrol, operator revoke, operator sign, operator publish, "
        "init, up, gateway serve, worker serve, control serve, decide, outcome, specialist list, specialist show, "
        "specialist train, specialist eval, specialist init, specialist try, "
        "rollout list, rollout start, rollout status, "
        "rollout approve, rollout reject, rollout hold, rollout resume, rollout rollback, rollout history, "
        "dataset build, dataset show, dataset verify, "
        "shadow report, holdback report, "
        "plan status, drift status, drift backtest, drift report, engine convert, engine status, eval run, "
        "eval ask, eval metrics, jobs list, jobs show, jobs retry, jobs cancel, jobs decisions, label next, "
        "label import, note, "
        "label export, capture tail, capture stats, capture export, capture release, "
        "capture erase, capture retention, evidence build, evidence show, "
        "evidence verify, evidence report, evidence diff, ledger show, ledger verify, operator keygen, operator list"
    )
    assert set(COMMANDS) == {tuple(name.split()) for name in promised.split(", ")}


def test_numbers_stay_numbers_in_json(control: FakeControl) -> None:
    code, found = said("specialist", "list")
    assert (code, found[0]["samples"], found[0]["primary_digest"]) == (0, 2**40, OLD)
    code, found = said("rollout", "status", "r-1")
    assert found["gates"][0]["sample_missing"] == 9


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("rollout", "status", "nobody"), 1, "NOT_FOUND"),
        (("rollout", "hold", "r-1", "--as", "ann", "--reason", "x"), 1, "FAILED_PRECONDITION"),
        (("rollout", "reject", "r-1", "--as", "", "--reason", "x"), 2, "INVALID_ARGUMENT"),
        (("plan", "status"), 1, "UNIMPLEMENTED"),
        (("evidence", "verify", "nowhere", "--plan-key", "nothing.pub"), 2, "INVALID_ARGUMENT"),
        (("ledger", "verify"), 2, "INVALID_ARGUMENT"),
        (("worker", "serve", "--config", "nothing.toml"), 2, "INVALID_ARGUMENT"),
        (("up", "--config", "nothing.toml"), 2, "INVALID_ARGUMENT"),
        (("decide", "brand", "--field", "x"), 2, "INVALID_ARGUMENT"),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, tuple) else str(v),
)
def test_a_refusal_is_a_sentence_and_an_exit_code(
    control: FakeControl, arguments: tuple[str, ...], code: int, status: str
) -> None:
    found_code, found = said(*arguments)
    assert (found_code, found["error"]["status"]) == (code, status)
    assert "Traceback" not in found["error"]["message"]
    assert f"({status})" in interlock(*arguments)[1]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:1"])
def test_a_control_plane_that_is_away_is_named_by_its_address(address: str) -> None:
    code, found = said("specialist", "list", "--control", address)
    assert (code, found["error"]["status"]) == (1, "UNAVAILABLE")
    assert found["error"]["message"].startswith(f"nothing answers at {address}:")


def test_a_front_that_no_gateway_has_is_refused_before_anything_is_measured() -> None:
    assert set(get_args(Front)) == set(FRONTS)
    asked = ["eval", "run", "fraud", "--bundle", "0" * 12, "--data", "none.csv", "--front", "nginx"]
    code, output = interlock(*asked)
    assert code == 2 and "'nginx' is not one of 'auto', 'direct'" in output


def test_wrong_use_exits_with_2() -> None:
    assert interlock("rollout", "approve", "r-1")[0] == 2
    assert interlock("rollout", "dance")[0] == 2


@pytest.mark.parametrize("wrong", [["rollout", "dance"], ["ledger", "show", "--limit", "0"], ["rollout", "status"]])
def test_a_script_learns_of_wrong_use_in_json(wrong: list[str]) -> None:
    code = "from controlplane.cli.app import main; main()"
    line = [sys.executable, "-c", code, *wrong, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["status"] == "INVALID_ARGUMENT"
    assert json.loads(done.stdout)["error"]["message"]


def test_other_peoples_words_are_neither_markup_nor_control_characters(control: FakeControl) -> None:
    reason = "see [/foo] [red]all[/red]\x1b[2K\u202e"
    approval = control_pb2.ApprovalInfo(person="ann", step="canary", reason=reason)
    control.rollouts = [control_pb2.Rollout(id="r-1", waiting_for="[/bar]", approvals=[approval])]
    code, text = interlock("rollout", "status", "r-1")
    assert code == 0 and "[/bar]" in text and "see [/foo] [red]all[/red]\\x1b[2K\\u202e" in text
    control.readings = [control_pb2.DriftReading(verdict="drift", action="not [/retraining]")]
    assert "not [/retraining]" in interlock("drift", "status")[1]
    assert "bundle [/b]" in interlock("rollout", "history", "r-1")[1]
    assert said("rollout", "history", "r-1")[1][0]["detail"] == {"bundle": "[/b]"}


def test_what_could_not_be_measured_is_null_to_a_script(control: FakeControl) -> None:
    control.readings = [control_pb2.DriftReading(signal="error", verdict="unknown", value=math.nan, threshold=0.25)]
    (found,) = said("drift", "status")[1]
    assert (found["value"], found["threshold"]) == (None, 0.25)


def test_a_row_of_a_table_that_is_piped_on_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    say(table("", ("job", "message"), [("train-1", "a long message " * 30)]))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_help_is_not_read_as_markup() -> None:
    for path, command in COMMANDS.items():
        for parameter in command.params:
            assert "[" not in (getattr(parameter, "help", None) or ""), f"{path} {parameter.name}: brackets are lost"


def test_the_command_starts_without_the_libraries_that_only_some_commands_need() -> None:
    heavy = ("torch", "sklearn", "scipy", "numpy", "sqlalchemy")
    code = f"import sys, controlplane.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.strip() == "[]"
