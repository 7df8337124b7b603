"""``interlock engine``: the same specialist on another engine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, say, say_json, table
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.digest import DigestMalformed, parse_digest

app = typer.Typer(help="Put a specialist on another engine.", no_args_is_help=True)


@app.command("convert")
@command
def convert(
    bundle: Annotated[str, typer.Argument(help="Digest of the bundle to convert; it stays as it is.")],
    dev: Annotated[Path, typer.Option(help="Held-out texts, JSON Lines with text and label: both are compared on it.")],
    author: Annotated[str, typer.Option("--as", help="Who asks; may not approve what comes out.")],
    bundles: Annotated[Path, typer.Option(help="Folder of bundles.", envvar="INTERLOCK_BUNDLES")] = Path("bundles"),
    precision: Annotated[str, typer.Option(help="auto (bf16 where the CPU has it) or int8.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Make an OpenVINO bundle of a decoder, or eight bits of an OpenVINO bundle; refused where it answers worse."""
    from controlplane.training.convert import PRECISIONS, ConversionFailed
    from controlplane.training.convert import convert as run
    from controlplane.training.dataset import DatasetInvalid, read_dataset

    if precision not in PRECISIONS:
        raise Problem(f"--precision is {precision!r}, expected one of {', '.join(PRECISIONS)}", code=WRONG_USE)
    try:
        digest = parse_digest(bundle, "BUNDLE")
    except DigestMalformed as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=as_json) as bar:
        task = bar.add_task("reading", total=1.0)
        try:
            store = BundleStore(bundles)
            labels = store.manifest(digest).task.labels
            found = run(
                store,
                digest,
                read_dataset(dev, labels),
                precision,
                author,
                lambda fraction, message: bar.update(task, completed=fraction, description=message),
            )
        except (ConversionFailed, DatasetInvalid, BundleInvalid) as error:
            raise Problem(str(error)) from error
    if as_json:
        say_json(
            {
                "bundle": found.digest,
                "rows": found.rows,
                "accuracy_before": found.accuracy_before,
                "accuracy": found.accuracy,
                "most_difference": found.most_difference,
            }
        )
        return
    rows = [
        ("accuracy before", f"{found.accuracy_before:.4f}"),
        ("accuracy", f"{found.accuracy:.4f}"),
        ("largest difference of a probability", f"{found.most_difference:.4f}"),
        ("held-out texts", found.rows),
    ]
    say(f"bundle {found.digest}", table("", ("", "value"), rows))
