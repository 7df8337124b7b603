"""What a training set is made of: sources, licences, counts, the fence it passed, and what was set aside and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from controlplane.datasets.fence import NEAR
from controlplane.packs.example import Example
from controlplane.training.dataset import dataset_digest
from protos.contract.digest import digest_json
from protos.contract.fields import Reader

SCHEMA = "interlock.dataset/1"
KINDS = ("pack", "captured", "hard", "file", "dataset")


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows came from.

    Attributes:
        kind: Scenarios of the pack, captured and labelled traffic, hard cases among it, an imported file, or another
            training set.
        digest: Of the file, or of the rows where there is none.
        rows: Taken from it, before the fence.
    """

    kind: str
    name: str
    digest: str
    licence: str
    rows: int


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """One version of a training set, named by its digest.

    Attributes:
        rows_digest: Of the rows in order; ``rows_file`` of the file that holds them.
        fence: Digest of the held-out texts' keys, and how many of them there were.
        exact, near: Rows the fence kept out.
        set_aside: Batches and rows that were quarantined, with reasons.
    """

    specialist: str
    rows: int
    rows_digest: str
    rows_file: str
    sources: tuple[Source, ...]
    labels: dict[str, int]
    slices: dict[str, int]
    fence: str
    held_out: int
    exact: int
    near: int
    set_aside: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The version's name."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        value = asdict(self)
        value["sources"] = [asdict(source) for source in self.sources]
        value["set_aside"] = list(self.set_aside)
        return {"schema": SCHEMA, "near_threshold": NEAR, **value}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a manifest; raises FieldInvalid."""
        read = Reader(value, "dataset")
        read.text("schema", choices=(SCHEMA,))
        read.number("near_threshold", 0, 1)
        sources = []
        for i, item in enumerate(read.items("sources")):
            one = Reader(item, f"dataset.sources[{i}]")
            sources.append(
                Source(
                    kind=one.text("kind", choices=KINDS),
                    name=one.text("name"),
                    digest=one.text("digest"),
                    licence=one.maybe_text("licence") or "",
                    rows=one.integer("rows", 0, 10**12),
                )
            )
            one.done()
        manifest = cls(
            specialist=read.text("specialist"),
            rows=read.integer("rows", 0, 10**12),
            rows_digest=read.text("rows_digest"),
            rows_file=read.text("rows_file"),
            sources=tuple(sources),
            labels=read.object("labels"),
            slices=read.object("slices"),
            fence=read.text("fence"),
            held_out=read.integer("held_out", 0, 10**12),
            exact=read.integer("exact", 0, 10**12),
            near=read.integer("near", 0, 10**12),
            set_aside=tuple(read.items("set_aside")),
        )
        read.done()
        return manifest


def source_of(kind: str, name: str, rows: Sequence[Example], licence: str = "", digest: str = "") -> Source:
    """Describe rows as a source."""
    return Source(kind, name, digest or dataset_digest(rows), licence, len(rows))


def counts(rows: Sequence[Example]) -> tuple[dict[str, int], dict[str, int]]:
    """Count labels and slices, the most frequent first."""
    return dict(Counter(row.label for row in rows).most_common()), dict(
        Counter(row.slice for row in rows).most_common()
    )
