"""What the READMEs say exists, exists."""

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
PACKS = tuple(f"controlplane/packs/{p.parent.name}" for p in (ROOT / "controlplane/packs").glob("*/README.md"))
FOLDERS = ("", "deploy", "gateway", "controlplane", "controlplane/detectors", "controlplane/packs", "perf", *PACKS)
EVERY = "\n".join((ROOT / folder / "README.md").read_text() for folder in FOLDERS)


def test_the_settings_shown_are_settings(tmp_path: Path) -> None:
    block = (ROOT / "SETTINGS.md").read_text().split("```toml", 1)[1].split("```", 1)[0]
    tables = tomllib.loads(block)
    GatewaySettings.from_json(tables["gateway"], tmp_path)
    ControlSettings.from_json(tables["controlplane"], tmp_path)
    (tmp_path / "interlock.toml").write_text(block)
    assert "--socket" in worker_command(tmp_path / "interlock.toml")


def test_the_files_and_modules_named_exist() -> None:
    for path in re.findall(r"`((?:protos|gateway|controlplane|tests|perf)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:gateway|controlplane|perf)[\w.]*)", EVERY):
        base = ROOT / module.replace(".", "/")
        assert (base / "__main__.py").exists() or base.with_suffix(".py").exists(), module


def test_the_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", EVERY, re.M)) <= targets


def test_the_commands_and_options_shown_exist() -> None:
    root = typer.main.get_command(app)
    for line in re.findall(r"^(?:\.venv/bin/)?interlock (.+)$", EVERY, re.M):
        command, words = root, line.split("#")[0].split()
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_reason_listed_is_in_the_code() -> None:
    table = README.split("## What the gateway refuses", 1)[1].split("A refused plan", 1)[0]
    code = "".join(p.read_text() for folder in ("protos/contract", "gateway") for p in (ROOT / folder).rglob("*.py"))
    for reason in re.findall(r"`(\w+)`", table):
        assert f'"{reason}"' in code, reason
