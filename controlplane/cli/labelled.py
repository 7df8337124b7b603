"""Options of commands that read labelled files."""

from pathlib import Path
from typing import Annotated

import typer

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
