"""Data sets as they are published: which columns hold what a specialist reads, and what others reached on them."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from controlplane.datasets.rows import Case, Columns, DataInvalid, read_cases, read_rows
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

Prepare = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
_TASK_PARTS = (
    "fields", "labels", "decisions", "cost", "score_label", "fallback_decision", "template",
    "max_tokens", "max_input_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """One data set.

    Attributes:
        name: Its folder's name where the sets lie.
        needs: Columns that a file of it has; a file with all of them is taken for one.
        columns: Which column holds what. Rows with a label outside of the task's are left out.
        task: The specialist's task as far as the set can ask it: its own fields or labels where it has others.
        analysers: How the additive model cuts a text field, where not into words.
        is_balanced: Whether the additive model counts all labels the same, however rare.
        metrics: What is compared with others' results.
        audits: What is asked of every slice besides.
        groups: The set's own labels, where they are coarser than the task's, and the task's labels in each.
        published: Metric to what was reached by a classical model, for the table of results.
        prepare: Turns a row as published into one with the columns above, None to leave it out.
    """

    name: str
    needs: tuple[str, ...]
    columns: Columns
    task: TaskSpec
    analysers: Mapping[str, str]
    metrics: tuple[str, ...]
    published: Mapping[str, float]
    groups: Mapping[str, tuple[str, ...]]
    audits: tuple[str, ...] = ()
    is_balanced: bool = False
    prepare: Prepare | None = None

    @classmethod
    def from_json(cls, value: Any, task: TaskSpec, where: str) -> Self:
        """Read one table of a ``pack.toml``; raises FieldInvalid."""
        read = Reader(value, where)
        changes = read.object("task", {})
        unknown = sorted(set(changes) - set(_TASK_PARTS))
        if unknown:
            raise FieldInvalid(f"{where}.task has unknown fields: {', '.join(unknown)}")
        published = read.object("published", {})
        values = Reader(published, f"{where}.published")
        grouped = read.object("groups", {})
        groups = Reader(grouped, f"{where}.groups")
        own = task if not changes else TaskSpec.from_json(_changed(task, changes), f"{where}.task")
        found = cls(
            name=read.text("name"),
            needs=read.texts("needs"),
            columns=Columns(
                label=read.text("label"),
                fields=read.object("fields", {}),
                slices=read.texts("slices", ()),
                bands=_bands(read.object("bands", {}), f"{where}.bands"),
                weight=read.maybe_text("weight"),
                kept=read.texts("keep", ()),
                labels=read.object("labels", {}),
            ),
            task=own,
            analysers=read.object("analysers", {}),
            metrics=read.texts("metrics"),
            audits=read.texts("audits", ()),
            published={name: values.number(name, 0, 1e9) for name in published},
            groups={name: groups.texts(name) for name in grouped},
            is_balanced=read.flag("balanced", False),
        )
        read.done()
        return found

    @classmethod
    def of_task(cls, task: TaskSpec, columns: Columns, analysers: Mapping[str, str]) -> Self:
        """Return how anybody's file of a task's own fields and labels is read; it has no name."""
        return cls("", (), columns, task, analysers, metrics=(), published={}, groups={})

    @property
    def labels(self) -> tuple[str, ...]:
        """What its cases are judged by."""
        return tuple(self.groups) or self.task.labels

    def prepared(self, path: Path, scratch: Path) -> Path:
        """Return a file with this set's columns: the one given, or one written into ``scratch``.

        Raises:
            DataInvalid: A row lacks a column, or holds what the set does not.
        """
        if self.prepare is None:
            return path
        target = scratch / f"{self.name}-{path.name.removesuffix('.gz').rsplit('.', 1)[0]}.jsonl"
        with target.open("w", encoding="utf-8") as file:
            for number, row in read_rows(path):
                try:
                    made = self.prepare(row)
                except (KeyError, TypeError, ValueError) as error:
                    raise DataInvalid(f"{path} row {number} is not of {self.name}: {error}") from error
                if made is not None:
                    file.write(json.dumps(made, ensure_ascii=False) + "\n")
        return target

    def cases(self, path: Path, labels: tuple[str, ...] | None = None) -> list[Case]:
        """Read a file of it as cases; ``labels`` replaces what a label may be, the task's own.

        Rows with another label are left out of a published set, and refuse any other file.

        Raises:
            DataInvalid: The file cannot be read, or none of its rows can be used.
        """
        with tempfile.TemporaryDirectory(prefix="interlock-read-") as scratch:
            file = self.prepared(path, Path(scratch))
            aside = (lambda row: None) if self.name else None
            try:
                return read_cases(file, self.task, self.columns, labels or self.task.labels, aside)
            except DataInvalid as error:
                raise DataInvalid(str(error).replace(str(file), str(path))) from error

    def recognises(self, columns: Iterable[str]) -> bool:
        """Say whether a file with these columns is one of this set's."""
        return set(self.needs) <= set(columns)


def _bands(given: Mapping[str, Any], where: str) -> dict[str, tuple[float, ...]]:
    read = Reader(given, where)
    found = {}
    for column in given:
        bounds = read.items(column)
        if not bounds or not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds):
            raise FieldInvalid(f"{where}.{column} is {bounds!r}, expected a list of numbers, at least one")
        if sorted(set(bounds)) != bounds:
            raise FieldInvalid(f"{where}.{column} is {bounds!r}, expected rising numbers")
        found[column] = tuple(map(float, bounds))
    return found


def _changed(task: TaskSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's JSON with parts replaced; new fields are rendered a line each, new labels cost 1 when missed."""
    value = {**task.to_json(), **changes}
    if "fields" in changes:
        value["fields"] = [
            field if "required" in field else {"required": False, "capture": True, **field}
            for field in changes["fields"]
        ]
        if "template" not in changes:
            value["template"] = "\n".join(f"{field['name']}: {{{field['name']}}}" for field in changes["fields"])
    if "labels" in changes and "decisions" not in changes:
        labels = changes["labels"]
        value |= {
            "decisions": labels,
            "cost": changes.get("cost", [[float(a != b) for b in labels] for a in labels]),
            "score_label": changes.get("score_label", labels[-1]),
            "fallback_decision": changes.get("fallback_decision", labels[0]),
        }
        value.pop("holdback_decision", None)
    return value
