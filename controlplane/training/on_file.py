"""What a training on a labelled file learns from: rows of the file, without those that anything is judged on."""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from controlplane.datasets.build import ROWS, Part, build, write
from controlplane.datasets.manifest import DatasetManifest
from controlplane.datasets.rows import Case, DataInvalid, Refused, read_cases, read_rows
from controlplane.packs.example import Example
from controlplane.packs.published import PublishedSet
from controlplane.training.dataset import fence, write_dataset
from controlplane.training.recipe import PACKAGED, Recipe
from protos.contract.digest import digest_bytes

DEV, LEARNED, JUDGED = "dev.jsonl", "learned.jsonl", "judged.jsonl"
JUDGED_SHARE, MOST_JUDGED = 5, 2000  # one case of so many is judged on, where no file for that is named
DEV_SHARE, MOST_DEV = {"encoder": 8}, 2000  # one case of so many, of the language model more, is calibrated on
USUAL_DEV_SHARE = 10
LEAST = 20  # examples: from fewer nothing is learned


@dataclass(frozen=True, slots=True)
class FileTraining:
    """What to learn, from which file, and where the bundle goes.

    Attributes:
        source: How the file is read, a published set or anybody's, and the task it is read as.
        judged: What the bundle will be measured on; None: a part of ``data``, drawn by the seed.
        held_out: What nothing may be learned from besides.
        suite: Digest of the suite that is in force.
        budget_tokens: As in the training's configuration.
        quarantine: Take rows that cannot be used aside instead of refusing the file.
    """

    source: PublishedSet
    data: Path
    bundles: Path
    author: str
    pack: str
    trainer: str
    suite: str
    recipe: Recipe = Recipe()
    judged: Path | None = None
    held_out: Sequence[Example] = ()
    statements: Mapping[str, str] = field(default_factory=dict)
    base: str = PACKAGED
    budget_tokens: int = 0
    licence: str = ""
    quarantine: bool = False
    max_seconds: float = 86_400


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training that may begin.

    Attributes:
        config: For ``parent.train``.
        manifest: What is learned from, and how much the fence kept out; the rows are the file ``rows``.
        learned: The same rows as the file spells them, for a control; ``judged``: those to measure the bundle on.
    """

    config: dict[str, Any]
    manifest: DatasetManifest
    rows: Path
    learned: Path
    judged: Path
    set_aside: tuple[Refused, ...]


def prepare(asked: FileTraining, folder: Path) -> Prepared:
    """Write what a training needs into a folder.

    Raises:
        DataInvalid: A file, its columns or its labels cannot be used, or too little is left to learn from.
        DatasetRefused: Nothing is left.
    """
    aside: list[Refused] = []
    file, cases = _read(asked, asked.data, folder / "data", aside)
    judged, dev, rest = _parted(asked, cases)
    if asked.judged is None:
        judged_file = _copied(file, {case.number for case in judged}, folder / JUDGED)
    else:
        judged_file, judged = _read(asked, asked.judged, folder / "judged", aside)
    closed = [*_examples(judged), *asked.held_out]
    looked_at, _ = fence(_examples(dev), closed)
    part = Part("file", asked.data.name, tuple(_examples(rest)), asked.licence, digest_bytes(asked.data.read_bytes()))
    built = build(asked.source.task, [part], [*closed, *looked_at])
    _check(asked, built.rows)
    manifest = write(built, folder)
    if looked_at:
        write_dataset(folder / DEV, looked_at)
    texts = {row.text for row in built.rows}
    return Prepared(
        config=_config(asked, folder, manifest, is_calibrated=bool(looked_at)),
        manifest=manifest,
        rows=folder / ROWS,
        learned=_copied(file, {case.number for case in rest if case.text in texts}, folder / LEARNED),
        judged=judged_file,
        set_aside=tuple(aside),
    )


def _read(asked: FileTraining, path: Path, folder: Path, aside: list[Refused]) -> tuple[Path, list[Case]]:
    """Return a file with the source's columns, and its cases."""
    one = asked.source
    folder.mkdir(parents=True)
    file = one.prepared(path, folder)
    columns = replace(one.columns, slices=(), bands={}, kept=())
    labels = tuple(dict.fromkeys((*one.task.labels, *(one.groups if path == asked.judged else ()))))
    set_aside = aside.append if asked.quarantine else None
    try:
        return file, read_cases(file, one.task, columns, labels, set_aside)
    except DataInvalid as error:
        raise DataInvalid(str(error).replace(str(file), str(path))) from error


def _parted(asked: FileTraining, cases: Sequence[Case]) -> tuple[list[Case], list[Case], list[Case]]:
    """Draw what is judged on, what is calibrated on, and what is left to learn from, in the order drawn.

    Cases that weigh are not calibrated on: what the rare ones stand for would be lost.
    """
    order = random.Random(asked.recipe.seed).sample(cases, len(cases))  # noqa: S311 - sampling, not secrets
    first = min(MOST_JUDGED, len(order) // JUDGED_SHARE) if asked.judged is None else 0
    judged, rest = order[:first], order[first:]
    share = DEV_SHARE.get(asked.trainer, USUAL_DEV_SHARE)
    second = min(MOST_DEV, len(rest) // share) if asked.source.columns.weight is None else 0
    return judged, rest[:second], rest[second:]


def _examples(cases: Sequence[Case]) -> list[Example]:
    return [Example(case.text, case.label, weight=case.weight) for case in cases]


def _check(asked: FileTraining, rows: Sequence[Example]) -> None:
    label, labels = asked.source.columns.label, {row.label for row in rows}
    if len(rows) < LEAST:
        raise DataInvalid(f"{asked.data} leaves {len(rows)} rows to learn from, expected at least {LEAST}")
    if len(labels) < 2:
        expected = ", ".join(asked.source.task.labels)
        raise DataInvalid(
            f"{asked.data} column {label!r} is always {labels.pop()!r}, expected at least two of {expected}"
        )


def _copied(path: Path, numbers: Collection[int], target: Path) -> Path:
    """Write some rows of a file as JSON Lines."""
    with target.open("w", encoding="utf-8") as file:
        for number, row in read_rows(path):
            if number in numbers:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return target


def _config(asked: FileTraining, folder: Path, manifest: DatasetManifest, *, is_calibrated: bool) -> dict[str, Any]:
    one = asked.source
    return {
        "specialist": one.task.name,
        "pack": asked.pack,
        "data": None,
        "trainer": asked.trainer,
        "analysers": dict(one.analysers),
        "is_balanced": one.is_balanced,
        "statements": dict(asked.statements),
        "task": one.task.to_json(),
        "train_file": str(folder / ROWS),
        "dev_file": str(folder / DEV) if is_calibrated else None,
        "bundles_dir": str(asked.bundles),
        "base": asked.base,
        "recipe": asked.recipe.to_json(),
        "budget_tokens": asked.budget_tokens,
        "max_seconds": asked.max_seconds,
        "author": asked.author,
        "parent": None,
        "dataset_digest": manifest.rows_file,
        "data_manifest": manifest.digest,
        "suite_digest": asked.suite,
    }
