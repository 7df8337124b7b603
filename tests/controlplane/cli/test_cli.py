"""The command line against a control plane that answers what a test wants, and against real files."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import typer.main
from typer.testing import CliRunner

from controlplane.cli.app import app
from controlplane.cli.up import Supervisor
from controlplane.settings import ControlSettings
from controlplane.store import ledger
from controlplane.store.store import Store
from gateway.settings import GatewaySettings
from protos import control_pb2, control_pb2_grpc
from protos.contract.attestation import Approval, Operators, generate_key, read_private, verify_approval
from protos.contract.digest import canonical_json
from protos.contract.plan import Split
from protos.contract.plan_rules import to_split_digest

OLD, NEW, OTHER = ("sha256:" + letter * 64 for letter in "abc")
BEFORE = Split("brand", OLD, NEW, None, 0, 5_000, 10_000, 0, "r-1")
PATIENCE_S = 20.0


def draft(**changes: Any) -> control_pb2.ApprovalDraft:
    statement = Approval(
        person="draft",
        specialist="brand",
        rollout="r-1",
        step="canary",
        bundle=NEW,
        evidence=OTHER,
        suite=OTHER,
        from_split=BEFORE.shape_digest(),
        to_split=to_split_digest(BEFORE, 5_000),
        ceiling_bp=5_000,
        audience="prod",
        not_before=0,
        expires=0,
        nonce="draft",
        author="trainer",
        reason="draft",
    )
    shape = json.dumps(BEFORE.shape())
    return control_pb2.ApprovalDraft(
        rollout="r-1",
        step="canary",
        ceiling_bp=5_000,
        statement=canonical_json(replace(statement, **changes).to_statement()),
        summary="it gets better",
        from_shape_json=shape,
        to_shape_json=shape,
        evidence_path="/somewhere",
    )


class FakeControl(control_pb2_grpc.ControlServiceServicer):
    def __init__(self) -> None:
        self.draft = draft()
        self.submitted: list[control_pb2.SubmitApprovalRequest] = []

    def ListSpecialists(self, request: Any, context: Any) -> Any:  # noqa: N802
        known = control_pb2.Specialist(name="brand", primary_digest=OLD, samples=2**40)
        return control_pb2.ListSpecialistsResponse(specialists=[known])

    def GetRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.id != "r-1":
            context.abort(grpc.StatusCode.NOT_FOUND, f"rollout is {request.id!r}, expected another")
        gate = control_pb2.GateReading(gate="shadow_cost", verdict="not_yet", sample=7, sample_missing=9)
        return control_pb2.Rollout(id="r-1", phase="shadowing", candidate_digest=NEW, gates=[gate])

    def DraftApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.draft

    def SubmitApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.submitted.append(request)
        return control_pb2.Rollout(id="r-1", phase="canary")

    def PauseRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "rollout 'r-1' is paused already")


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    fake = FakeControl()
    control_pb2_grpc.add_ControlServiceServicer_to_server(fake, server)
    monkeypatch.setenv("INTERLOCK_CONTROL", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    yield fake
    server.stop(None)


def interlock(*arguments: str, given: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, input=given, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def said(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_offers_json_and_says_what_it_does(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert any("--json" in parameter.opts for parameter in command.params)
    code, text = interlock(*path, "--help")
    assert code == 0 and "Usage" in text


def test_the_commands_a_user_was_promised_exist() -> None:
    promised = (
        "up, gateway serve, worker serve, control serve, decide, specialist list, specialist show, specialist train, "
        "specialist eval, rollout start, rollout status, rollout approve, rollout reject, rollout pause, "
        "rollout rollback, rollout history, drift status, evidence show, evidence verify, ledger verify, "
        "operator keygen, operator list"
    )
    assert {tuple(name.split()) for name in promised.split(", ")} <= set(COMMANDS)


def test_numbers_stay_numbers_in_json(control: FakeControl) -> None:
    code, found = said("specialist", "list")
    assert (code, found[0]["samples"], found[0]["primary_digest"]) == (0, 2**40, OLD)
    code, found = said("rollout", "status", "r-1")
    assert found["gates"][0]["sample_missing"] == 9


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("rollout", "status", "nobody"), 1, "NOT_FOUND"),
        (("rollout", "pause", "r-1", "--as", "ann", "--reason", "x"), 1, "FAILED_PRECONDITION"),
        (("specialist", "list", "--control", "127.0.0.1:1"), 1, "UNAVAILABLE"),
        (("evidence", "verify", "nowhere", "--plan-key", "nothing.pub"), 2, "INVALID_ARGUMENT"),
        (("ledger", "verify"), 2, "INVALID_ARGUMENT"),
        (("worker", "serve", "--config", "nothing.toml"), 2, "INVALID_ARGUMENT"),
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


def test_wrong_use_exits_with_2() -> None:
    assert interlock("rollout", "approve", "r-1")[0] == 2
    assert interlock("rollout", "dance")[0] == 2


def approve(tmp_path: Path, *more: str) -> tuple[int, Any]:
    if not (tmp_path / "ann.key").exists():
        generate_key(tmp_path / "ann.key")
    key = str(tmp_path / "ann.key")
    arguments = ("rollout", "approve", "r-1", "--key", key, "--person", "ann", "--reason", "fine", "--yes", *more)
    return said(*arguments)


def test_approve_signs_what_it_was_shown(control: FakeControl, tmp_path: Path) -> None:
    code, found = approve(tmp_path, "--valid-for", "30m")
    assert (code, found["phase"]) == (0, "canary")
    key = (tmp_path / "ann.key.pub").read_text().strip()
    people = [{"person": "ann", "roles": ["approver"], "keys": [key]}]
    operators = Operators.from_json({"version": 1, "required_approvals": 1, "people": people})
    given = verify_approval(control.submitted[0].envelope, operators)
    assert (given.person, given.reason, given.bundle, given.ceiling_bp) == ("ann", "fine", NEW, 5_000)
    assert given.expires - given.not_before == 1800
    assert len(given.nonce) == 32


@pytest.mark.parametrize(
    "changes",
    [{"bundle": OTHER}, {"to_split": OTHER}, {"from_split": OTHER}, {"ceiling_bp": 10_000}, {"specialist": "fraud"}],
    ids=lambda changes: next(iter(changes)),
)
def test_approve_refuses_to_sign_a_draft_that_says_other_than_it_shows(
    control: FakeControl, tmp_path: Path, changes: dict[str, Any]
) -> None:
    control.draft = draft(**changes)
    code, found = approve(tmp_path)
    assert (code, found["error"]["status"]) == (1, "DATA_LOSS")
    assert control.submitted == []


def test_approve_signs_nothing_without_a_yes(control: FakeControl, tmp_path: Path) -> None:
    generate_key(tmp_path / "k")
    arguments = ("rollout", "approve", "r-1", "--key", str(tmp_path / "k"), "--person", "ann", "--reason", "x")
    code, text = interlock(*arguments, given="n\n")
    assert code == 1 and "it gets better" in text
    assert said(*arguments)[0] == 2
    assert interlock(*arguments, "--valid-for", "forever", "--yes")[0] == 2
    assert control.submitted == []


def test_a_key_is_never_overwritten_and_enrolling_raises_the_version(tmp_path: Path) -> None:
    assert said("init", str(tmp_path / "d"), "--required-approvals", "1")[0] == 0
    operators = tmp_path / "d" / "operators.json"
    arguments = ("operator", "keygen", "--person", "ann", "--out", str(tmp_path / "ann.key"), "--enrol", str(operators))
    assert said(*arguments)[0] == 0
    key = (tmp_path / "ann.key").read_bytes()
    assert os.stat(tmp_path / "ann.key").st_mode & 0o777 == 0o600
    assert said(*arguments)[0] == 1
    assert (tmp_path / "ann.key").read_bytes() == key
    found = Operators.read(operators)
    assert (found.version, [p.person for p in found.people]) == (2, ["ann"])
    assert said("operator", "list", "--operators", str(operators))[1]["people"][0]["person"] == "ann"


def test_what_init_writes_is_what_the_processes_read(tmp_path: Path) -> None:
    assert said("init", str(tmp_path / "d"), "--deployment", "prod")[0] == 0
    config = tmp_path / "d" / "interlock.toml"
    assert GatewaySettings.read(config).deployment == ControlSettings.read(config).deployment == "prod"
    assert said("init", str(tmp_path / "d"))[0] == 1


def test_an_unknown_setting_of_the_worker_stops_it_with_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "interlock.toml"
    config.write_text('[worker]\nsocket = "s"\nbundles_dir = "b"\nfaults = true\n')
    code, text = interlock("worker", "serve", "--config", str(config))
    assert code == 2 and "faults" in text


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    generate_key(tmp_path / "plan.key")
    path = tmp_path / "control.db"
    store = Store(f"sqlite:///{path}")
    with store.writing(0) as unit:
        for i in range(5):
            ledger.append(unit.connection, "ann", "thing.done", {"i": i}, datetime.now(UTC))
        ledger.checkpoint(unit.connection, read_private(tmp_path / "plan.key"), "interlock/prod")
    store.close()
    key = str(tmp_path / "plan.key.pub")
    return path, ("ledger", "verify", "--database", f"sqlite:///{path}", "--plan-key", key, "--deployment", "prod")


def test_a_ledger_verifies_until_a_row_is_changed(records: tuple[Path, tuple[str, ...]]) -> None:
    path, arguments = records
    code, found = said(*arguments)
    assert (code, found["verified"], found["size"]) == (0, True, 6)
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER ledger_entry_no_update")
        body = database.execute("SELECT body FROM ledger_entry WHERE seq = 3").fetchone()[0]
        database.execute("UPDATE ledger_entry SET body = ? WHERE seq = 3", (body.replace(b'"i":2', b'"i":9'),))
    code, found = said(*arguments)
    assert (code, found["verified"], found["first_bad_seq"]) == (1, False, 3)


def test_a_ledger_is_not_verified_by_another_key_or_from_nothing(
    records: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    path, arguments = records
    generate_key(tmp_path / "other.key")
    other = [a.replace("plan.key.pub", "other.key.pub") for a in arguments]
    assert said(*other)[0] == 1
    missing = [a.replace("control.db", "missing.db") for a in arguments]
    assert said(*missing)[0] == 1
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "missing.db").write_text("not a database")
    assert said(*missing)[0] == 1


def test_up_starts_a_child_again_and_ends_it_with_itself(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    news = threading.Condition()

    def say(event: dict[str, Any]) -> None:
        with news:
            events.append(event)
            news.notify_all()

    def until(kind: str, n: int) -> dict[str, Any]:
        with news:
            assert news.wait_for(lambda: sum(e["event"] == kind for e in events) >= n, PATIENCE_S), events
            return [e for e in events if e["event"] == kind][n - 1]

    child = [sys.executable, "-c", "import time; time.sleep(600)"]
    supervisor = Supervisor({"one": child}, say)
    running = threading.Thread(target=supervisor.run)
    running.start()
    os.kill(until("started", 1)["pid"], 9)
    assert until("died", 1)["code"] == -9
    second = until("started", 2)["pid"]
    supervisor.stop()
    running.join(PATIENCE_S)
    assert until("stopped", 1)["process"] == "one"
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_up_gives_up_on_settings_that_are_wrong(tmp_path: Path) -> None:
    supervisor = Supervisor({"one": [sys.executable, "-c", "raise SystemExit(2)"]}, lambda event: None)
    assert supervisor.run() == 2


def test_the_installed_command_starts_quickly_enough_to_be_scripted() -> None:
    code = (
        "import sys, controlplane.cli.app; print([m for m in ('torch', 'sklearn', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.strip() == "[]"
