"""Rows of any labelled file: CSV, TSV, JSON Lines or Parquet, compressed with gzip or not, one row at a time."""

import csv
import gzip
import io
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.errors import Unusable
from protos import decide_pb2
from protos.contract.task import Field, InputInvalid, TaskSpec, check_input, render

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


class DataInvalid(Unusable):
    """A file or one of its rows cannot be used; the message names the row, the column and what was expected."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what.

    Attributes:
        label: Column of the true label.
        fields: Task field to column; a field that is not named is looked for under its own name.
        slices: Columns whose values part the cases into slices.
        bands: Columns of numbers that part them at these bounds, rising: a slice holds its lower one.
        weight: Column saying how many cases of the real world a row stands for; none: 1 each.
        name: Column naming the row; none: its number.
        kept: Other columns that a metric of the pack looks at.
        labels: Value in the file to label, for files that spell labels otherwise.
    """

    label: str = "label"
    fields: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()
    bands: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weight: str | None = None
    name: str | None = None
    kept: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled row as an engine would be asked it."""

    number: int  # from 1, the header not counted
    name: str
    given: decide_pb2.Input
    text: str  # rendered by the task's template
    label: str
    slices: Mapping[str, str]
    weight: float
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was set aside, and why."""

    number: int
    problem: str


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers, from 1.

    Raises:
        DataInvalid: Unknown format, unreadable, or a row that is no record.
    """
    name = path.name.lower().removesuffix(".gz")
    kind = next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
    if kind is None:
        raise DataInvalid(f"{path} is of no known format, expected one of {', '.join(FORMATS)}, perhaps with .gz")
    try:
        data = path.open("rb")
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error
    with data:
        try:
            unpacked: Any = gzip.GzipFile(fileobj=data) if path.name.lower().endswith(".gz") else data
            if kind == ".parquet":
                yield from _parquet(path, unpacked)
            elif kind in (".jsonl", ".ndjson"):
                yield from _json_lines(path, unpacked)
            else:
                yield from _separated(path, unpacked, "\t" if kind == ".tsv" else ",")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DataInvalid(f"{path} cannot be read: {error}") from error


def _json_lines(path: Path, data: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for line in data:
        if not line.strip():
            continue
        number += 1
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataInvalid(f"{path} row {number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataInvalid(f"{path} row {number} is {type(value).__name__}, expected an object")
        yield number, value


def _separated(path: Path, data: Any, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.TextIOWrapper(data, "utf-8-sig", newline=""), delimiter=separator, strict=True)
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise DataInvalid(f"{path} row {number} has another number of columns than the header")
            yield number, row
    except csv.Error as error:
        raise DataInvalid(f"{path} after row {reader.line_num}: {error}") from error


def _parquet(path: Path, data: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Parquet is read from its end: a gzip stream has to be unpacked whole first.
        file = pq.ParquetFile(pa.BufferReader(data.read()) if isinstance(data, gzip.GzipFile) else data)
        number = 0
        for batch in file.iter_batches(4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise DataInvalid(f"{path} cannot be read: {error}") from error


def read_cases(
    path: Path,
    task: TaskSpec,
    columns: Columns,
    labels: tuple[str, ...],
    set_aside: Callable[[Refused], None] | None = None,
) -> list[Case]:
    """Read a labelled file as cases of a task.

    Args:
        labels: What a label may be; the task's own, or the groups it is judged by.
        set_aside: Takes rows that cannot be used; without it the first such row ends the reading.
    Raises:
        DataInvalid: The file cannot be read, a row cannot be used, or none is left.
    """
    fields = _columns_of_fields(task, columns)
    cases, first = [], ""
    for number, row in read_rows(path):
        try:
            cases.append(_case(number, row, task, columns, fields, labels))
        except (DataInvalid, InputInvalid) as error:
            if set_aside is None:
                raise DataInvalid(f"{path} row {number}: {error}") from error
            set_aside(Refused(number, str(error)))
            first = first or f"row {number}: {error}"
    if not cases:
        raise DataInvalid(f"{path} holds no row that can be used, expected at least one; {first or 'it has none'}")
    return cases


def _columns_of_fields(task: TaskSpec, columns: Columns) -> dict[str, str]:
    unknown = sorted(set(columns.fields) - {field.name for field in task.fields})
    if unknown:
        raise DataInvalid(f"field is {unknown[0]!r}, expected one of {', '.join(field.name for field in task.fields)}")
    return {field.name: columns.fields.get(field.name, field.name) for field in task.fields}


def _case(
    number: int,
    row: Mapping[str, Any],
    task: TaskSpec,
    columns: Columns,
    fields: Mapping[str, str],
    labels: tuple[str, ...],
) -> Case:
    said = _text(_take(row, columns.label))
    label = columns.labels.get(said, said)
    if label not in labels:
        taken = f", taken for {label[:60]!r}" if label != said else ""
        raise DataInvalid(f"column {columns.label!r} is {said[:60]!r}{taken}, expected one of {', '.join(labels)}")
    given = decide_pb2.Input()
    is_plain = len(task.fields) == 1 and task.fields[0].kind == "text"
    for wanted in task.fields:
        column = fields[wanted.name]
        if column not in row and not wanted.required:
            continue
        value = _take(row, column)
        if value is None or value == "":
            continue  # check_input says so where the field is required
        if is_plain:
            given.text = _text(value)
        else:
            _put(given.fields[wanted.name], wanted, value, column)
    check_input(task, given)
    weight = 1.0 if columns.weight is None else _number(_take(row, columns.weight), columns.weight)
    if weight <= 0:
        raise DataInvalid(f"column {columns.weight!r} is {weight:g}, expected a weight above 0")
    return Case(
        number=number,
        name=str(number) if columns.name is None else _text(_take(row, columns.name)),
        given=given,
        text=render(task, given),
        label=label,
        slices={
            **{column: _text(_take(row, column)) for column in columns.slices},
            **{column: band(_number(_take(row, column), column), at) for column, at in columns.bands.items()},
        },
        weight=weight,
        kept={column: _take(row, column) for column in columns.kept},
    )


def band(value: float, bounds: Sequence[float]) -> str:
    """Name the stretch between two bounds that a value lies in; a bound belongs to the stretch above it."""
    place = bisect_right(bounds, value)
    if place == 0:
        return f"under {bounds[0]:g}"
    return f"{bounds[-1]:g} and over" if place == len(bounds) else f"{bounds[place - 1]:g} to under {bounds[place]:g}"


def _take(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise DataInvalid(f"column {column!r} is missing, expected among {', '.join(map(str, row))[:200]}")
    return row[column]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _number(value: Any, column: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataInvalid(f"column {column!r} is {value!r}, expected a finite number")
    return found


def _put(into: decide_pb2.Value, wanted: Field, value: Any, column: str) -> None:
    """Write a cell as the field's kind; text of a CSV is read as what the field is."""
    match wanted.kind:
        case "text":
            into.text = _text(value)
        case "number":
            into.number = _number(value, column)
        case "integer":
            number = _number(value, column)
            if not number.is_integer() or abs(number) >= 2**63:
                raise DataInvalid(f"column {column!r} is {value!r}, expected a whole number")
            into.integer = int(number)
        case _:
            said = _text(value).strip().lower()
            if said not in (*_TRUE, *_FALSE):
                raise DataInvalid(f"column {column!r} is {value!r}, expected true or false")
            into.flag = said in _TRUE
