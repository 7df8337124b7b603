"""Put a training set together: sources in, suspicious batches aside, held-out texts out, a manifest beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.datasets.fence import Fence
from controlplane.datasets.manifest import DatasetManifest, Source, counts, source_of
from controlplane.datasets.poison import suspicious
from controlplane.datasets.rows import Case
from controlplane.packs.example import Example
from controlplane.training.dataset import dataset_digest, read_dataset, write_dataset
from protos.contract.digest import JsonMalformed, canonical_json, digest_bytes, parse_json_object
from protos.contract.fields import FieldInvalid
from protos.contract.task import TaskSpec

ROWS, MANIFEST = "train.jsonl", "manifest.json"


class DatasetRefused(ValueError):
    """A training set cannot be built or used; says which rows or file, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source; ``batches`` says what each came in with, such as its day, where that is known."""

    kind: str
    name: str
    rows: tuple[Example, ...]
    licence: str = ""
    digest: str = ""
    batches: tuple[str, ...] = ()


def part_of(path: Path, cases: Sequence[Case], licence: str = "", batch: str = "") -> Part:
    """Take the cases of a labelled file; ``batch`` is the slice that says what each came in with."""
    return Part(
        kind="file",
        name=path.name,
        rows=tuple(Example(case.text, case.label, path.name) for case in cases),
        licence=licence,
        digest=digest_bytes(path.read_bytes()),
        batches=tuple(case.slices[batch] for case in cases) if batch else (),
    )


@dataclass(frozen=True, slots=True)
class Built:
    """A training set and its manifest, in memory."""

    rows: tuple[Example, ...]
    manifest: DatasetManifest


def build(task: TaskSpec, parts: Sequence[Part], held_out: Sequence[Example]) -> Built:
    """Build a training set. Earlier parts come first; a text that several have keeps the first one's label.

    Raises:
        DatasetRefused: A label is not the task's, or no row is left.
    """
    fence = Fence((example.text for example in held_out), near=len(task.fields) == 1)
    rows: list[Example] = []
    sources: list[Source] = []
    aside: list[str] = []
    seen: set[str] = set()
    exact = near = 0
    for part in parts:
        for example in part.rows:
            if example.label not in task.labels:
                expected = ", ".join(task.labels)
                raise DatasetRefused(f"{part.kind} {part.name}: label is {example.label[:60]!r}, expected {expected}")
        sources.append(source_of(part.kind, part.name, part.rows, part.licence, part.digest))
        given = part.rows
        if part.batches:
            bad = suspicious(given, part.batches)
            aside += [f"{part.kind} {part.name}: {one.text}" for one in bad]
            names = {one.batch for one in bad}
            given = tuple(row for row, batch in zip(given, part.batches, strict=True) if batch not in names)
        passed = fence.sift(given)
        exact, near = exact + passed.exact, near + passed.near
        fresh = [row for row in passed.kept if row.text not in seen]
        seen |= {row.text for row in fresh}
        rows += fresh
    if not rows:
        given_rows = sum(len(part.rows) for part in parts)
        raise DatasetRefused(f"no row is left of {given_rows}: {exact + near} held out, {len(aside)} batches set aside")
    labels, slices = counts(rows)
    manifest = DatasetManifest(
        specialist=task.name,
        rows=len(rows),
        rows_digest=dataset_digest(rows),
        rows_file="",
        sources=tuple(sources),
        labels=labels,
        slices=slices,
        fence=fence.digest,
        held_out=fence.texts,
        exact=exact,
        near=near,
        set_aside=tuple(aside),
    )
    return Built(tuple(rows), manifest)


def write(built: Built, folder: Path) -> DatasetManifest:
    """Write rows and manifest into a folder; return the manifest, which names the file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder / ROWS, built.rows)
    value = built.manifest.to_json() | {"rows_file": digest_bytes((folder / ROWS).read_bytes())}
    (folder / MANIFEST).write_bytes(canonical_json(value))
    return DatasetManifest.from_json(value)


def verify(folder: Path, held_out: Sequence[Example] | None = None, *, near: bool = True) -> DatasetManifest:
    """Check that a folder holds what its manifest says and, given held-out cases, that none of them is in it.

    Raises:
        DatasetRefused: Something was altered, is missing, or overlaps what is held out.
    """
    try:
        manifest = DatasetManifest.from_json(parse_json_object((folder / MANIFEST).read_bytes()))
        data = (folder / ROWS).read_bytes()
        rows = read_dataset(folder / ROWS)
    except (OSError, FieldInvalid, JsonMalformed, ValueError) as error:
        raise DatasetRefused(f"{folder}: {error}") from error
    if digest_bytes(data) != manifest.rows_file:
        raise DatasetRefused(f"{folder / ROWS} hashes to {digest_bytes(data)}, expected {manifest.rows_file}")
    if (dataset_digest(rows), len(rows)) != (manifest.rows_digest, manifest.rows):
        raise DatasetRefused(f"{folder / ROWS} holds other rows than the manifest says")
    if held_out is not None:
        fence = Fence((example.text for example in held_out), near=near)
        passed = fence.sift(rows)
        if passed.exact or passed.near:
            raise DatasetRefused(
                f"{folder / ROWS} overlaps what is held out: {passed.exact} texts exactly, {passed.near} nearly; "
                "expected none"
            )
    return manifest
