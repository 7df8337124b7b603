"""Labelled runs over data sets as they are published: the pack knows the columns."""

from dataclasses import replace
from pathlib import Path

from controlplane.datasets.rows import Columns, DataInvalid
from controlplane.evals.labelled import LabelledRun
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import published_set
from protos.contract.task import TaskSpec


def known_set(specialist: str, data: Path, columns: Columns) -> PublishedSet | None:
    """Return the published set that a file is one of, unless the caller says what is a case; raises DataInvalid.

    Slices, a name and what is kept besides say nothing of that.
    """
    named = replace(columns, slices=(), bands={}, name=None, kept=())
    return published_set(specialist, data) if named == Columns() else None


def source_of(specialist: str, task: TaskSpec, data: Path, columns: Columns) -> PublishedSet:
    """Say how a file is read as cases of a task: as the published set it is, or by the columns named.

    Raises:
        DataInvalid: The file cannot be read, or is of a set with fields or labels of its own.
    """
    if (known := known_set(specialist, data, columns)) is None:
        return PublishedSet.of_task(task, columns, {})
    if not _asks(known, task):
        raise DataInvalid(
            f"{data} is of {known.name}, whose fields or labels are its own, expected those of {task.name}; "
            "`interlock specialist init NAME --from FILE` makes a specialist of it"
        )
    return replace(known, columns=with_more(known.columns, columns))


def with_more(known: Columns, asked: Columns) -> Columns:
    """Return a published set's columns with those that the caller wants to see besides."""
    return replace(
        known,
        slices=tuple(dict.fromkeys((*known.slices, *asked.slices))),
        kept=tuple(dict.fromkeys((*known.kept, *asked.kept))),
        name=asked.name or known.name,
    )


def as_published(specialist: str, asked: LabelledRun, scratch: Path) -> tuple[LabelledRun, str]:
    """Fill in the columns of a file that is one of the specialist's published sets.

    Nothing is filled in where the caller says what is a case, or groups labels. Rows whose label the bundle does not
    know are set aside.

    Returns:
        The run, and the set's name or "".
    Raises:
        DataInvalid: A file cannot be read, or is not what its columns say.
    """
    known = None if asked.groups else known_set(specialist, asked.data, asked.columns)
    if known is None:
        return asked, ""
    read = replace(
        asked,
        data=known.prepared(asked.data, scratch),
        train=None if asked.train is None else known.prepared(asked.train, scratch),
        columns=with_more(known.columns, asked.columns),
        groups=known.groups,
        metrics=tuple(dict.fromkeys((*asked.metrics, *known.metrics, *known.audits))),
        quarantine=True,
    )
    return read, known.name


def is_of_another_task(specialist: str, data: Path, task: TaskSpec) -> bool:
    """Say whether a file is one of the specialist's published sets, and asks other fields or labels than a task has."""
    known = published_set(specialist, data)
    return known is not None and not _asks(known, task)


def _asks(known: PublishedSet, task: TaskSpec) -> bool:
    return (known.task.fields, known.task.labels) == (task.fields, task.labels)
