"""Labelled runs over data sets as they are published: the pack knows the columns."""

from dataclasses import replace
from pathlib import Path

from controlplane.datasets.rows import Columns
from controlplane.evals.labelled import LabelledRun
from controlplane.packs.registry import published_set


def as_published(specialist: str, asked: LabelledRun, scratch: Path) -> tuple[LabelledRun, str]:
    """Fill in the columns of a file that is one of the specialist's published sets.

    Nothing is filled in where the caller named columns. Rows whose label the bundle does not know are set aside.

    Returns:
        The run, and the set's name or "".
    Raises:
        DataInvalid: A file cannot be read, or is not what its columns say.
    """
    if asked.columns != Columns() or (known := published_set(specialist, asked.data)) is None:
        return asked, ""
    read = replace(
        asked,
        data=known.prepared(asked.data, scratch),
        train=None if asked.train is None else known.prepared(asked.train, scratch),
        columns=known.columns,
        groups=known.groups,
        metrics=tuple(dict.fromkeys((*asked.metrics, *known.metrics, *known.audits))),
        quarantine=True,
    )
    return read, known.name
