"""Folders, keys and people: written once, never over something else."""

import json
import tomllib
from pathlib import Path

import pytest

from controlplane.settings import ControlSettings
from gateway.settings import GatewaySettings
from protos.contract.attestation import Operators
from tests.controlplane.cli.fake import interlock, said


@pytest.fixture
def operators(tmp_path: Path) -> Path:
    assert said("init", str(tmp_path / "d"), "--required-approvals", "1")[0] == 0
    return tmp_path / "d" / "operators.json"


def keygen(person: str, out: Path, *more: str) -> tuple[str, ...]:
    return ("operator", "keygen", "--person", person, "--out", str(out), *more)


def test_a_key_is_never_overwritten_and_enrolling_raises_the_version(operators: Path, tmp_path: Path) -> None:
    arguments = keygen("ann", tmp_path / "ann.key", "--enrol", str(operators))
    assert said(*arguments)[0] == 0
    key = (tmp_path / "ann.key").read_bytes()
    assert (tmp_path / "ann.key").stat().st_mode & 0o777 == 0o600
    assert said(*arguments)[0] == 1
    assert (tmp_path / "ann.key").read_bytes() == key
    found = Operators.read(operators)
    assert (found.version, [p.person for p in found.people]) == (2, ["ann"])
    assert said("operator", "list", "--operators", str(operators))[1]["people"][0]["person"] == "ann"


def test_a_second_key_joins_the_persons_first(operators: Path, tmp_path: Path) -> None:
    for i, role in enumerate(("approver", "auditor")):
        more = ("--enrol", str(operators), "--role", role)
        assert said(*keygen("ann", tmp_path / f"{i}.key", *more))[0] == 0
    found = Operators.read(operators)
    assert (found.version, len(found.people)) == (3, 1)
    assert (found.people[0].roles, len(found.people[0].keys)) == (("approver", "auditor"), 2)
    assert [p.name for p in operators.parent.iterdir() if p.name.startswith(".operators-")] == []


@pytest.mark.parametrize("wrong", [("", ()), (" ", ()), ("ann", ("--role", "king"))], ids=["empty", "blank", "role"])
def test_who_cannot_be_enrolled_gets_no_key(operators: Path, tmp_path: Path, wrong: tuple[str, tuple[str]]) -> None:
    before = operators.read_bytes()
    assert said(*keygen(wrong[0], tmp_path / "k", "--enrol", str(operators), *wrong[1]))[0] == 2
    assert operators.read_bytes() == before
    assert not (tmp_path / "k").exists()


def test_what_init_suggests_is_where_the_deployment_looks(tmp_path: Path) -> None:
    code, shown = interlock("init", str(tmp_path / "d"))
    settings = ControlSettings.read(tmp_path / "d" / "interlock.toml")
    assert code == 0
    assert f"--store {settings.bundles_dir} --artifacts {settings.artifacts_dir}" in " ".join(shown.split())


def test_what_init_writes_is_what_the_processes_read(tmp_path: Path) -> None:
    data = tmp_path / 'd\u00e9j\u00e0 "vu" \U0001f600.jsonl'
    rows = [{"text": f"{word} thing number {i}", "label": word} for i in range(100) for word in ("good", "bad")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--deployment", "prod", "--pack", "labelled-file", "--data", str(data))
    assert said("init", str(tmp_path / "d"), *more)[0] == 0
    config = tmp_path / "d" / "interlock.toml"
    settings = ControlSettings.read(config)
    assert GatewaySettings.read(config).deployment == settings.deployment == "prod"
    assert settings.specialists[0].data == data
    assert Operators.read(settings.operators).required_approvals == 2
    assert tomllib.loads(config.read_text())["worker"]["socket"] == "run/worker.sock"


@pytest.mark.parametrize("left", ["interlock.toml", "operators.json", "keys/plan.key", "keys/plan.key.pub"])
def test_init_overwrites_nothing(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "d"
    (folder / left).parent.mkdir(parents=True)
    (folder / left).write_text("mine")
    assert said("init", str(folder))[0] == 1
    assert [p for p in folder.rglob("*") if p.is_file()] == [folder / left]
    assert (folder / left).read_text() == "mine"


@pytest.mark.parametrize("name", ["", "my prod", "a+b", "prod\n", "pröd", "x" * 191])
def test_a_deployment_that_no_checkpoint_could_name_is_refused(tmp_path: Path, name: str) -> None:
    assert said("init", str(tmp_path / "d"), "--deployment", name)[0] == 2
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("pack", "expected"),
    [
        (["--pack", "brand-safty"], "pack is 'brand-safty', expected one of brand-safety"),
        (["--pack", "packs/missing"], "packs/missing/task.toml does not exist"),
        (["--pack", "labelled-file"], "pack 'labelled-file' needs a data file"),
        (["--pack", "labelled-file", "--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "rows.jsonl"], "pack 'brand-safety' makes its own texts"),
    ],
    ids=["unknown", "no folder", "no file named", "no such file", "file not wanted"],
)
def test_a_pack_that_no_control_plane_would_start_with_is_refused_and_nothing_is_written(
    tmp_path: Path, pack: list[str], expected: str
) -> None:
    code, found = said("init", str(tmp_path / "d"), *pack)
    assert code == 2 and expected in found["error"]["message"]
    assert not (tmp_path / "d").exists()
