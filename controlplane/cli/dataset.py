"""``interlock dataset``: training sets as versioned folders, built behind the fence and checked again."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.labelled import (
    HELD_OUT_CASES,
    LABEL,
    FieldOption,
    HeldOutOption,
    LabelOption,
    LabelValueOption,
    cases_of_files,
    cases_of_suite,
)
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, marked, pairs, say, say_json, short, table

if TYPE_CHECKING:
    from controlplane.datasets.rows import Columns
    from controlplane.packs.example import Example
    from protos.contract.task import TaskSpec

app = typer.Typer(help="Training sets: build, show, verify.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="Folder of the training set.")]
Pack = Annotated[str, typer.Option(help="The pack whose task it is for.")]
PackData = Annotated[Path | None, typer.Option(help="The labelled file of the pack labelled-file.")]
HeldOutCases = Annotated[int, typer.Option(min=1, help="Cases of each part the suite judges on.")]


@app.command("build")
@command
def build(
    out: Folder,
    pack: Pack,
    pack_data: PackData = None,
    scenarios: Annotated[int, typer.Option(min=0, help="Rows drawn from the pack's scenarios.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the scenarios.")] = 0,
    data: Annotated[list[Path] | None, typer.Option(help="Labelled file to take rows from; repeatable.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the files, for the manifest.")] = "",
    label: LabelOption = LABEL,
    field: FieldOption = None,
    label_value: LabelValueOption = None,
    batch: Annotated[str, typer.Option(help="Column a row came in with, such as its day: flips are looked for.")] = "",
    held_out: HeldOutOption = None,
    held_out_cases: HeldOutCases = HELD_OUT_CASES,
    as_json: JsonFlag = False,
) -> None:
    """Build a training set from scenarios and files, without anything that is held out."""
    from controlplane.datasets.build import DatasetRefused, Part, part_of, write
    from controlplane.datasets.build import build as put_together
    from controlplane.datasets.rows import Columns
    from controlplane.evals.published_run import source_of
    from controlplane.packs.registry import load_pack

    if out.exists():
        raise Problem(f"{out} exists, expected no such folder", "FAILED_PRECONDITION")
    if not scenarios and not data:
        raise Problem("nothing to build from, expected --scenarios or --data", "INVALID_ARGUMENT", WRONG_USE)
    found = load_pack(pack, pack_data)
    fields, labels = pairs(field, "--field", "FIELD=COLUMN"), pairs(label_value, "--label-value", "VALUE=LABEL")
    plain = Columns(label=label, fields=fields, labels=labels)
    columns = replace(plain, slices=(batch,) if batch else ())
    parts = [Part("pack", pack, tuple(found.training_set(scenarios, seed)))] if scenarios else []
    for path in data or ():
        cases = source_of(pack, found.task, path, columns).cases(path)
        parts.append(part_of(path, cases, licence, batch))
    try:
        closed = [*cases_of_suite(found, held_out_cases), *_closed(pack, found.task, held_out, plain)]
        built = put_together(found.task, parts, closed)
        manifest = write(built, out)
    except DatasetRefused as error:
        raise Problem(str(error), "FAILED_PRECONDITION") from error
    _tell(manifest, as_json)


@app.command("show")
@command
def show(folder: Folder, as_json: JsonFlag = False) -> None:
    """Show a training set's manifest."""
    from controlplane.datasets.build import DatasetRefused, verify

    try:
        _tell(verify(folder), as_json)
    except DatasetRefused as error:
        raise Problem(str(error), "FAILED_PRECONDITION") from error


@app.command("verify")
@command
def check(
    folder: Folder,
    pack: Pack,
    pack_data: PackData = None,
    held_out: HeldOutOption = None,
    held_out_cases: HeldOutCases = HELD_OUT_CASES,
    as_json: JsonFlag = False,
) -> None:
    """Check every byte, and that nothing held out is in it; exit code 1 when something is."""
    from controlplane.datasets.build import DatasetRefused, verify
    from controlplane.datasets.rows import Columns
    from controlplane.packs.registry import load_pack

    found = load_pack(pack, pack_data)
    cases = [*cases_of_suite(found, held_out_cases), *_closed(pack, found.task, held_out, Columns())]
    try:
        manifest = verify(folder, cases, near=len(found.task.fields) == 1)
    except DatasetRefused as error:
        raise Problem(str(error), "FAILED_PRECONDITION") from error
    if manifest.specialist != found.task.name:
        raise Problem(f"{folder} is for {manifest.specialist!r}, expected {found.task.name!r}", "FAILED_PRECONDITION")
    if as_json:
        say_json({"verified": True, "digest": manifest.digest, "held_out": len(cases)})
    else:
        said = f"{folder}: {manifest.rows} rows as in {short(manifest.digest)}, none of {len(cases)} held out"
        say(marked(said, "green"))


def _closed(name: str, task: "TaskSpec", files: list[Path] | None, columns: "Columns") -> "list[Example]":
    """Read what no row may come from, a published set by its own columns; raises DataInvalid."""
    from controlplane.evals.published_run import source_of

    return cases_of_files((path, source_of(name, task, path, columns)) for path in files or ())


def _tell(manifest: Any, as_json: bool) -> None:
    if as_json:
        say_json(manifest.to_json() | {"digest": manifest.digest})
        return
    say(
        f"{manifest.specialist} {short(manifest.digest)}: {manifest.rows} rows; the fence of {manifest.held_out} texts "
        f"that are held out kept {manifest.exact} out exactly and {manifest.near} nearly",
        table(
            "",
            ("source", "name", "rows", "licence", "digest"),
            [(s.kind, s.name, s.rows, s.licence, short(s.digest)) for s in manifest.sources],
        ),
        table("", ("label", "rows"), list(manifest.labels.items())),
    )
    for words in manifest.set_aside:
        say(marked(f"set aside: {words}", "yellow"))
