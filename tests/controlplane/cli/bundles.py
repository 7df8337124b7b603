"""Bundles made by commands, for the tests of what becomes of them."""

import json
import struct
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from controlplane.cli.app import app
from tests.tasks import TASK

SAFETENSORS = struct.pack("<Q", 2) + b"{}"


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout)


def definition(folder: Path, engine: str = 'backend = "simulator"', extra: str = "") -> Path:
    """Write what ``bundle build`` reads."""
    folder.mkdir(exist_ok=True)
    task = TASK.to_json()
    fields = task.pop("fields")
    lines = [f"{k} = {json.dumps(v)}" for k, v in task.items() if v is not None]
    columns = ", ".join(
        "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in field.items() if v is not None) + "}" for field in fields
    )
    text = "[task]\n" + "\n".join(lines) + f"\nfields = [{columns}]\n[engine]\n{engine}\n{extra}"
    (folder / "bundle.toml").write_text(text)
    return folder


def base_folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"name": name}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(SAFETENSORS)
    return folder
