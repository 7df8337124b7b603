"""Options of commands that read labelled files, and what no training set may hold."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from controlplane.packs.example import Example
    from controlplane.packs.published import PublishedSet

HELD_OUT_CASES = 400  # of each part that a suite judges on
DataOption = Annotated[Path, typer.Option("--data", help="CSV, TSV, JSON Lines or Parquet, perhaps with .gz.")]
LabelOption = Annotated[str, typer.Option("--label", help="Column of the true label.")]
LABEL = "label"
FieldOption = Annotated[
    list[str] | None, typer.Option("--field", help="FIELD=COLUMN, where they are named differently; repeatable.")
]
LabelValueOption = Annotated[
    list[str] | None,
    typer.Option("--label-value", help="VALUE=LABEL, where the file spells labels otherwise; repeatable."),
]
HeldOutOption = Annotated[
    list[Path] | None, typer.Option("--held-out", help="Labelled file that no row may come from; repeatable.")
]


def cases_of_suite(pack: Any, n: int) -> "list[Example]":
    """Return what candidates of a pack are judged on and looked at with."""
    from controlplane.loop.evaluate import HELD_OUT_SEED, core_and_dev

    core, dev = core_and_dev(pack, n)
    return [*core, *dev, *pack.held_out_shifted(n, HELD_OUT_SEED)]


def cases_of_files(files: "Iterable[tuple[Path, PublishedSet]]") -> "list[Example]":
    """Read files that nothing may be learned from, each as it is read; raises DataInvalid."""
    from controlplane.packs.example import Example

    found = []
    for path, one in files:
        plain = replace(one, columns=replace(one.columns, slices=(), bands={}, kept=()))
        found += [Example(case.text, case.label) for case in plain.cases(path)]
    return found
