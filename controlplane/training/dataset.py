"""Datasets as JSON Lines, their names by content, and the fence that keeps held-out texts out of training."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from controlplane.errors import Unusable
from controlplane.packs.example import Example
from protos.contract.digest import JsonMalformed, digest_json, parse_json_object
from protos.contract.fields import FieldInvalid, Reader

MIN_WEIGHT, MAX_WEIGHT = 1e-9, 1e9  # of a case
_SEPARATORS = re.compile(r"[\W_]+")


class DatasetInvalid(Unusable):
    """A dataset file cannot be read; the message names the file, line and column."""


def normalise(text: str) -> str:
    """Reduce a text to what makes two copies the same: letters and digits, lower case, single spaces."""
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def text_key(text: str) -> str:
    """Name a text by the SHA-256 of its normalised form."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def fence(train: Iterable[Example], held_out: Iterable[Example]) -> tuple[list[Example], int]:
    """Drop training examples whose text is held out; return those kept and how many were not."""
    closed = {text_key(example.text) for example in held_out}
    given = list(train)
    kept = [example for example in given if text_key(example.text) not in closed]
    return kept, len(given) - len(kept)


def dataset_digest(examples: Sequence[Example]) -> str:
    """Name a dataset by its rows, in order."""
    return digest_json([[e.text, e.label, e.slice, *([] if e.weight == 1 else [e.weight])] for e in examples])


def write_dataset(path: Path, examples: Iterable[Example]) -> str:
    """Write examples as JSON Lines and return the dataset's digest."""
    rows = list(examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            line: dict[str, str | float] = {"text": row.text, "label": row.label, "slice": row.slice}
            if row.weight != 1:
                line["weight"] = row.weight
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return dataset_digest(rows)


def read_dataset(path: Path, labels: Sequence[str] = ()) -> list[Example]:
    """Read what ``write_dataset`` wrote.

    Raises:
        DatasetInvalid: Unreadable, empty, malformed, or a label is not one of ``labels`` (when given).
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DatasetInvalid(f"{path}: {error.strerror}") from error
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = Reader(parse_json_object(line), "row")
            text, label = read.text("text"), read.text("label", choices=tuple(labels))
            weight = read.number("weight", MIN_WEIGHT, MAX_WEIGHT, 1.0)
            examples.append(Example(text, label, read.maybe_text("slice") or "", weight))
            read.done()
        except (FieldInvalid, JsonMalformed) as error:
            raise DatasetInvalid(f"{path} line {number}: {error}") from error
    if not examples:
        raise DatasetInvalid(f"{path} is empty, expected at least one example")
    return examples
