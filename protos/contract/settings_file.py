"""The settings file: one TOML document with a table for each process."""

import tomllib
from pathlib import Path
from typing import Any

from protos.contract.fields import FieldInvalid


def read_tables(path: Path) -> dict[str, Any]:
    """Read the whole file; raises FieldInvalid."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FieldInvalid(f"{path}: not a readable TOML file: {error}") from error


def read_table(path: Path, name: str) -> Any:
    """Read the table of one process; raises FieldInvalid, also where there is none."""
    tables = read_tables(path)
    if name not in tables:
        raise FieldInvalid(f"{path}: has no table [{name}]")
    return tables[name]
