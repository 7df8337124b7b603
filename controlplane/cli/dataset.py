"""``interlock dataset``: training sets as versioned folders, built behind the fence and checked again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.output import REFUSED, WRONG_USE, JsonFlag, Problem, command, marked, say, say_json, short, table

app = typer.Typer(help="Training sets: build, show, verify.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="Folder of the training set.")]
Pack = Annotated[str, typer.Option(help="The pack whose task it is for.")]
PackData = Annotated[Path | None, typer.Option(help="The labelled file of the pack labelled-file.")]
HeldOut = Annotated[list[Path], typer.Option("--held-out", help="Labelled file that no row may come from.")]


@app.command("build")
@command
def build(
    out: Folder,
    pack: Pack,
    pack_data: PackData = None,
    scenarios: Annotated[int, typer.Option(min=0, help="Rows drawn from the pack's scenarios.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    data: Annotated[list[Path], typer.Option(help="Labelled file to take rows from.")] = [],  # noqa: B006
    licence: Annotated[str, typer.Option(help="Licence of the files, for the manifest.")] = "",
    label: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    field: Annotated[list[str], typer.Option("--field", help="FIELD=COLUMN, where they are named differently.")] = [],  # noqa: B006
    batch: Annotated[str, typer.Option(help="Column a row came in with, such as its day: flips are looked for.")] = "",
    held_out: HeldOut = [],  # noqa: B006
    held_out_cases: Annotated[int, typer.Option(min=1, help="Cases of each part the suite judges on.")] = 400,
    as_json: JsonFlag = False,
) -> None:
    """Build a training set from scenarios and files, without anything that is held out."""
    from controlplane.datasets.build import DatasetRefused, Part, write
    from controlplane.datasets.build import build as put_together
    from controlplane.datasets.rows import Columns, DataInvalid, read_cases
    from controlplane.packs.example import Example
    from protos.contract.digest import digest_bytes

    found = _pack(pack, pack_data)
    columns = Columns(label=label, fields=_pairs(field), slices=(batch,) if batch else ())
    parts = []
    try:
        if scenarios:
            parts.append(Part("pack", pack, tuple(found.training_set(scenarios, seed))))
        for path in data:
            cases = read_cases(path, found.task, columns, found.task.labels)
            parts.append(
                Part(
                    kind="file",
                    name=path.name,
                    rows=tuple(Example(case.text, case.label, path.name) for case in cases),
                    licence=licence,
                    digest=digest_bytes(path.read_bytes()),
                    batches=tuple(case.slices[batch] for case in cases) if batch else (),
                )
            )
        if not parts:
            raise Problem("nothing to build from, expected --scenarios or --data", "INVALID_ARGUMENT", WRONG_USE)
        built = put_together(found.task, parts, _held_out(found, held_out, held_out_cases, columns))
        manifest = write(built, out)
    except DataInvalid as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error
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
    held_out: HeldOut = [],  # noqa: B006
    held_out_cases: Annotated[int, typer.Option(min=1, help="Cases of each part the suite judges on.")] = 400,
    as_json: JsonFlag = False,
) -> None:
    """Check every byte, and that nothing held out is in it; exit code 1 when something is."""
    from controlplane.datasets.build import DatasetRefused, verify
    from controlplane.datasets.rows import Columns

    found = _pack(pack, pack_data)
    try:
        cases = _held_out(found, held_out, held_out_cases, Columns())
        manifest = verify(folder, cases, near=len(found.task.fields) == 1)
    except DatasetRefused as error:
        raise Problem(str(error), "FAILED_PRECONDITION", REFUSED) from error
    if as_json:
        say_json({"verified": True, "digest": manifest.digest, "held_out": len(cases)})
    else:
        said = f"{folder}: {manifest.rows} rows as in {short(manifest.digest)}, none of {len(cases)} held out"
        say(marked(said, "green"))


def _pack(name: str, data: Path | None) -> Any:
    from controlplane.packs.registry import PackUnknown, load_pack

    try:
        return load_pack(name, data)
    except PackUnknown as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error


def _held_out(pack: Any, files: list[Path], n: int, columns: Any) -> list[Any]:
    from dataclasses import replace

    from controlplane.datasets.rows import DataInvalid, read_cases
    from controlplane.loop.evaluate import HELD_OUT_SEED
    from controlplane.packs.example import Example

    found = list(pack.held_out(n, HELD_OUT_SEED)) + list(pack.held_out_shifted(n, HELD_OUT_SEED))
    plain = replace(columns, slices=())
    try:
        for path in files:
            cases = read_cases(path, pack.task, plain, pack.task.labels)
            found += [Example(case.text, case.label) for case in cases]
    except DataInvalid as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error
    return found


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = dict(one.partition("=")[::2] for one in given)
    if not all(pairs.values()) or len(pairs) != len(given):
        raise Problem(f"--field is {given!r}, expected FIELD=COLUMN, each field once", "INVALID_ARGUMENT", WRONG_USE)
    return pairs


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
