import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlplane.datasets.rows import Case, Columns, DataInvalid, Refused, read_cases
from protos.contract.task import Field
from tests.tasks import TASK

ROWS: list[dict[str, Any]] = [
    {"body": "fresh bread, and jam", "truth": "ok", "site": "a", "w": 2.0},
    {"body": 'he said "no"\nand left', "truth": "bad", "site": "b", "w": 1.0},
]
COLUMNS = Columns(
    label="truth", fields={"text": "body"}, slices=("site",), weight="w", labels={"ok": "safe", "bad": "unsafe"}
)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), plain)
    elif plain.suffix == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        with plain.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if plain.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def read(path: Path, columns: Columns = COLUMNS, **more: Any) -> list[Case]:
    return read_cases(path, TASK, columns, TASK.labels, **more)


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.parquet", "d.csv.gz", "d.jsonl.gz", "d.parquet.gz"])
def test_every_format_gives_the_same_cases(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, ROWS))
    assert [(c.text, c.label, c.slices["site"], c.weight) for c in found] == [
        ("fresh bread, and jam", "safe", "a", 2.0),
        ('he said "no"\nand left', "unsafe", "b", 1.0),
    ]


def test_cells_become_the_kinds_of_their_fields(tmp_path: Path) -> None:
    fields = (
        Field("amount", "number", True, True),
        Field("n", "integer", True, True),
        Field("new", "flag", False, True),
    )
    task = replace(TASK, fields=fields, template="{amount} {n} {new}")
    path = write(tmp_path / "d.csv", [{"amount": "1.5", "n": "3.0", "new": "Yes", "label": "safe"}])
    given = read_cases(path, task, Columns(), task.labels)[0].given.fields
    assert (given["amount"].number, given["n"].integer, given["new"].flag) == (1.5, 3, True)
    for column, value, complaint in (
        ("amount", "nan", "finite"),
        ("n", "1.5", "whole"),
        ("new", "maybe", "true or false"),
    ):
        row = {"amount": "1", "n": "1", "new": "no", "label": "safe"} | {column: value}
        with pytest.raises(DataInvalid, match=f"row 1: column '{column}'.*{complaint}"):
            read_cases(write(tmp_path / "d.csv", [row]), task, Columns(), task.labels)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"truth": "odd"}, "column 'truth' is 'odd', expected one of safe, unsafe"),
    ({"body": " "}, "input.text is empty"),
    ({"w": "-1"}, "expected a weight above 0"),
]


@pytest.mark.parametrize(("change", "complaint"), BAD, ids=["label", "text", "weight"])
def test_a_bad_row_refuses_the_file_or_is_set_aside_with_its_reason(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "d.csv", [ROWS[0], ROWS[1] | change])
    with pytest.raises(DataInvalid, match=f"row 2: .*{complaint}"):
        read(path)
    aside: list[Refused] = []
    assert len(read(path, set_aside=aside.append)) == 1
    assert aside[0].number == 2 and complaint in aside[0].problem


def test_a_file_none_of_whose_rows_can_be_used_says_why_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", [ROWS[0] | {"truth": "odd"}, ROWS[1] | {"body": " "}])
    with pytest.raises(DataInvalid, match="no row that can be used.*row 1: column 'truth' is 'odd'"):
        read(path, set_aside=lambda _: None)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("d.xlsx", b"x", "no known format"),
        ("d.jsonl", b'{"a": 1}\n[2]\n', "row 1: column 'truth' is missing"),
        ("d.jsonl", b"not json\n", "row 1: not JSON"),
        ("d.csv", b"body,truth,site,w\na,ok\n", "another number of columns"),
        ("d.csv", b"body,truth,site,w\n", "no row"),
        ("d.csv.gz", b"plain", "cannot be read"),
        ("d.parquet", b"plain", "cannot be read"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataInvalid, match=complaint):
        read(tmp_path / name)


def test_a_column_for_a_field_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="field is 'words', expected one of text"):
        read(write(tmp_path / "d.csv", ROWS), replace(COLUMNS, fields={"words": "body"}))
