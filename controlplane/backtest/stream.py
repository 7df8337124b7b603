"""Read a labelled stream: CSV or JSON Lines, gzipped or not, columns told apart by what they hold."""

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.errors import Unusable

MOST_CATEGORIES = 60  # different values; more of them, and not numbers, name rows rather than describe them
LONG_TEXT = 24  # characters on average: shorter strings are names or codes


class StreamInvalid(Unusable):
    """A file is no stream that could be replayed; the message names file, column and what was expected."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Labelled rows in the order of time.

    Attributes:
        numbers, categories: Columns by name; missing numbers are -inf, missing categories "".
        texts: The text column, or None.
        labels: What was true of each row.
        times: The column that orders the rows, as written; row numbers where none does.
        ignored: Columns left out, with the reason.
    """

    numbers: dict[str, NDArray[np.float64]]
    categories: dict[str, NDArray[np.str_]]
    texts: NDArray[np.str_] | None
    labels: NDArray[np.str_]
    times: NDArray[np.str_]
    ignored: dict[str, str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Stream":
        """Return some rows, in the given order."""
        return Stream(
            {name: column[rows] for name, column in self.numbers.items()},
            {name: column[rows] for name, column in self.categories.items()},
            None if self.texts is None else self.texts[rows],
            self.labels[rows],
            self.times[rows],
            self.ignored,
        )


def read_stream(
    paths: Sequence[Path], *, label: str, time: str = "", text: str = "", ignore: Iterable[str] = (), seed: int = 0
) -> Stream:
    """Read files as one stream.

    Args:
        time: Column to order by, numbers or text such as dates; rows of equal time are shuffled by
            ``seed``, for their order in the file means something else. Empty: the files' own order.
        text: Column to embed. Empty: the longest one that reads like text, if any does.
    Raises:
        StreamInvalid: A file cannot be read, a column is missing, or a row has no label.
    """
    rows = [row for path in paths for row in _rows(path)]
    if not rows:
        raise StreamInvalid(f"{', '.join(str(p) for p in paths)}: no rows")
    left_out = {label, time, *ignore} - {""}
    for name in (label, time, text, *sorted(left_out)):
        if name and name not in rows[0]:
            raise StreamInvalid(f"{paths[0]}: has no column {name!r}, expected one of {', '.join(rows[0])}")
    missing = next((i for i, row in enumerate(rows) if _text(row.get(label)) == ""), None)
    if missing is not None:
        raise StreamInvalid(f"{paths[0]}: row {missing + 1} has no {label!r}, expected a label in every row")
    if time:
        rows = _in_order(rows, time, seed)
    numbers: dict[str, NDArray[np.float64]] = {}
    categories: dict[str, NDArray[np.str_]] = {}
    ignored: dict[str, str] = {}
    texts: dict[str, NDArray[np.str_]] = {}
    for name in rows[0]:
        if name in left_out:
            continue
        column = [_text(row.get(name)) for row in rows]
        as_numbers = None if name == text else _numbers(column)
        if name == text or (as_numbers is None and not text and _reads_like_text(column)):
            texts[name] = np.array(column)
        elif as_numbers is not None:
            numbers[name] = as_numbers
        elif len(set(column)) <= MOST_CATEGORIES:
            categories[name] = np.array(column)
        else:
            ignored[name] = f"{len(set(column))} different values that are neither numbers nor text"
    longest = max(texts, key=lambda name: sum(map(len, texts[name])), default=None)
    for name in set(texts) - {longest}:
        ignored[name] = f"{longest} is the text that is read"
    ignored |= dict.fromkeys(left_out - {label, time}, "left out on request")
    if not numbers and not categories and longest is None:
        raise StreamInvalid(f"{paths[0]}: no column besides {label!r} can be used: {ignored}")
    times = [_text(row.get(time)) for row in rows] if time else [str(i) for i in range(len(rows))]
    return Stream(
        numbers,
        categories,
        texts[longest] if longest is not None else None,
        np.array([_text(row[label]) for row in rows]),
        np.array(times),
        ignored,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if kind not in ("csv", "jsonl"):
        raise StreamInvalid(f"{path}: expected .csv, .jsonl, .csv.gz or .jsonl.gz")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if kind == "csv":
                return list(csv.DictReader(file))
            return [_record(path, number, line) for number, line in enumerate(file, 1) if line.strip()]
    except StreamInvalid:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise StreamInvalid(f"{path}: cannot be read: {error}") from error


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StreamInvalid(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise StreamInvalid(f"{path}: line {number} is {type(row).__name__}, expected an object")
    return row


def _in_order(rows: list[dict[str, Any]], time: str, seed: int) -> list[dict[str, Any]]:
    column = [_text(row.get(time)) for row in rows]
    numbers = _numbers(column)
    keys: Sequence[Any] = column if numbers is None else numbers.tolist()
    within = np.random.default_rng(seed).random(len(rows))
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (keys[i], within[i]))]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _numbers(column: Sequence[str]) -> NDArray[np.float64] | None:
    """Return a column as numbers, gaps as -inf; None when it holds anything else, or nothing."""
    try:
        found = np.array([float(value) if value else -np.inf for value in column])
    except ValueError:
        return None
    return None if np.isneginf(found).all() or np.isnan(found).any() else found


def _reads_like_text(column: Sequence[str]) -> bool:
    mean = sum(map(len, column)) / len(column)
    return mean >= LONG_TEXT and len(set(column)) > len(column) / 2 and any(" " in value for value in column)
