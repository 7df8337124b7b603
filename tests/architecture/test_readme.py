"""What the README says exists, exists."""

import re
import tomllib
from pathlib import Path

import typer.main

from controlplane.cli.app import app
from controlplane.cli.processes import worker_command
from controlplane.settings import ControlSettings
from gateway.settings import GatewaySettings
from tests.architecture.test_imports import ROOT

README = (ROOT / "README.md").read_text()


def test_its_settings_are_settings(tmp_path: Path) -> None:
    block = README.split("```toml", 1)[1].split("```", 1)[0]
    tables = tomllib.loads(block)
    GatewaySettings.from_json(tables["gateway"], tmp_path)
    ControlSettings.from_json(tables["controlplane"], tmp_path)
    (tmp_path / "interlock.toml").write_text(block)
    assert "--socket" in worker_command(tmp_path / "interlock.toml")


def test_its_files_and_modules_exist() -> None:
    for path in re.findall(r"`((?:protos|gateway|controlplane|tests|perf)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:gateway|controlplane|perf)[\w.]*)", README):
        base = ROOT / module.replace(".", "/")
        assert (base / "__main__.py").exists() or base.with_suffix(".py").exists(), module


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M)) <= targets


def test_its_commands_and_options_exist() -> None:
    root = typer.main.get_command(app)
    for line in re.findall(r"^(?:\.venv/bin/)?interlock (.+)$", README, re.M):
        command, words = root, line.split("#")[0].split()
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_reason_it_lists_is_in_the_code() -> None:
    table = README.split("## What the gateway refuses", 1)[1].split("A refused plan", 1)[0]
    code = "".join(p.read_text() for folder in ("protos/contract", "gateway") for p in (ROOT / folder).rglob("*.py"))
    for reason in re.findall(r"`(\w+)`", table):
        assert f'"{reason}"' in code, reason
