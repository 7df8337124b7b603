"""From a published file to the folder of a specialist that a deployment can serve.

Task, columns and importer are those of the published set; what its task leaves open is its pack's. The suite asks what
can be asked of any set: no worse than the primary and than a classical control, and every changed input answered.
"""

import gzip
import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.datasets.rows import DataInvalid, read_rows
from controlplane.errors import Unusable
from controlplane.packs.cases import CASES
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import SCENARIOS, any_published_set, load_pack

MOST_ROWS = 5000  # read whenever a process of the deployment starts to draw: half a second
_HEAD = {
    "task.toml": "# The task that {set} can ask, on the terms of the pack {pack}.",
    "pack.toml": "# How {set} is read, and what learns from it.",
    "suite.toml": "# What a candidate must show before it may be rolled out; locked by digest before training starts.\n"
    "# Bounds that hold for any set: tighten them once your candidates have been measured.",
}


def adopt(data: Path, folder: Path, name: str) -> list[Path]:
    """Write the folder of a specialist; return what was written.

    Raises:
        DataInvalid: The file cannot be read, is of no set, or of one that nothing can learn from.
        CasesTooFew: It has not enough rows.
    """
    pack_name, one = any_published_set(data)
    if one.groups:
        raise DataInvalid(f"{data} is of {one.name}, whose labels only judge, expected a set to learn from")
    pack = load_pack(pack_name)
    own = {f.name for f in one.task.fields}
    task = one.task.to_json() | {"name": name}
    settings = {
        "trainer": pack.trainer,
        "analysers": one.analysers,
        "statements": {field: said for field, said in pack.statements.items() if field in own},
        "sets": [_table(pack_name, one.name)],
    }
    folder.mkdir(parents=True)
    try:
        for file, value in (("task.toml", task), ("pack.toml", settings), ("suite.toml", _suite(one))):
            head = _HEAD[file].format(set=one.name, pack=pack_name)
            (folder / file).write_text(f"{head}\n{_toml(value)}", "utf-8")
        if one.prepare is not None:
            (folder / SCENARIOS).write_text(_importer(one), "utf-8")
        _copy(data, folder / CASES)
        load_pack(f"{folder}/").held_out(1, 1)
    except BaseException as error:
        shutil.rmtree(folder)
        if isinstance(error, Unusable):  # the file that is named has to be there
            raise type(error)(str(error).replace(str(folder / CASES), str(data))) from error
        raise
    return sorted(folder.iterdir())


def _table(pack: str, name: str) -> dict[str, Any]:
    """Return the set's own table, without the task, which is the new specialist's."""
    path = Path(__file__).parent / pack.replace("-", "_") / "pack.toml"
    tables = tomllib.loads(path.read_text("utf-8"))["sets"]
    table = next(table for table in tables if table["name"] == name)
    return {key: value for key, value in table.items() if key != "task"}


def _importer(one: PublishedSet) -> str:
    assert one.prepare is not None
    function = one.prepare.__name__
    return (
        f'"""How a row of {one.name} becomes a case."""\n\n'
        f"from {one.prepare.__module__} import {function}\n\n"
        f"PREPARE = {{{json.dumps(one.name)}: {function}}}\n"
    )


def _suite(one: PublishedSet) -> dict[str, Any]:
    metric = one.metrics[0]
    gates: list[dict[str, Any]] = [
        {"metric": "ece", "part": "core", "max": 0.2},
        {"metric": "p99_ms", "part": "core", "max": 500.0},
        *({"metric": metric, "part": "core", "vs": rival, "margin": -0.15} for rival in ("primary", "control")),
        *({"metric": "mean_cost", "part": part, "vs": "primary", "margin": -0.1} for part in ("core", "shifted")),
    ]
    kinds = {field.kind for field in one.task.fields}
    changes = dict.fromkeys(("homoglyphs", "injection", "long") if "text" in kinds else (), 0.5)
    if kinds & {"number", "integer", "flag"}:
        changes |= {"missing": 0.75, "contradictory": 0.75}
    if kinds & {"number", "integer"}:
        changes["extreme"] = 0.75
    return {
        "version": 1,
        "bootstrap": {"rounds": 1000, "confidence": 0.95, "seed": 20},
        "regressions": {"part": "core", "max_share": 0.1},
        "gates": gates,
        "robustness": [{"change": name, "part": "core", "max_changed": most} for name, most in changes.items()],
        "contract": {"cases": 5},
    }


def _copy(data: Path, target: Path) -> None:
    """Write the rows as JSON Lines, in their order; of more than the most there may be, as many evenly drawn."""
    rows = sum(1 for _ in read_rows(data))
    keep = min(rows, MOST_ROWS)
    with gzip.open(target, "wt", encoding="utf-8") as file:
        for number, row in read_rows(data):
            if number * keep // rows > (number - 1) * keep // rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _toml(table: Mapping[str, Any]) -> str:
    """Write a table; lists of tables come last, each table under its heading."""
    lists = {key: value for key, value in table.items() if _is_tables(value)}
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if key not in lists and value not in (None, {})]
    for key, tables in lists.items():
        lines += [line for one in tables for line in ("", f"[[{key}]]", _toml(one).rstrip())]
    return "\n".join(lines) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str) and "\n" in value and not set(value) & {'"', "\\"}:
        return f'"""\n{value}"""'
    return json.dumps(value, ensure_ascii=False)  # a string of JSON is one of TOML
