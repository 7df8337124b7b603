"""``interlock eval ask``: have another model decide the same cases, and record its answers for ``eval run``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, command, console, say, say_json
from protos.contract.bundle import BundleInvalid, BundleStore


@command
def ask(
    specialist: Annotated[str, typer.Argument(help="The specialist whose task is asked.")],
    bundle: Annotated[str, typer.Option(help="Digest of the bundle to compare with, or the beginning of one.")],
    data: Annotated[Path, typer.Option(help="CSV, TSV, JSON Lines or Parquet, perhaps with .gz.")],
    url: Annotated[str, typer.Option(help="Base of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the server.")],
    out: Annotated[Path, typer.Option(help="JSON Lines of answers; what it holds already is not asked again.")],
    bundles: Annotated[Path, typer.Option(help="Folder of bundles.", envvar="INTERLOCK_BUNDLES")] = Path("bundles"),
    label: Annotated[str, typer.Option(help="Column of the true label.")] = "label",
    field: Annotated[list[str], typer.Option("--field", help="FIELD=COLUMN, where they are named differently.")] = [],  # noqa: B006
    label_value: Annotated[list[str], typer.Option(help="VALUE=LABEL, where the file spells labels otherwise.")] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Column naming a row; else its number.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File whose first line is the server's key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=600)] = 60.0,
    price_in: Annotated[float, typer.Option(min=0, help="Per million tokens read.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Per million tokens written.")] = 0.0,
    cases: Annotated[int, typer.Option(min=0, help="Ask only the first so many cases, 0 for all.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Ask a live model and record label, latency and cost of each decision.

    Then: interlock eval run ... --answers NAME=OUT
    """
    from controlplane.cli.eval import find_bundle, pairs
    from controlplane.datasets.rows import Columns, DataInvalid, read_cases
    from controlplane.evals.asking import Endpoint, ModelRefused, Question, ask_all, read_key

    if not url.startswith(("http://", "https://")):
        raise Problem(f"--url is {url!r}, expected http:// or https://", "INVALID_ARGUMENT", WRONG_USE)
    store = BundleStore(bundles)
    try:
        task = store.manifest(find_bundle(store, bundle)).task
        if task.name != specialist:
            raise Problem(f"the bundle is for {task.name!r}, expected {specialist!r}", "INVALID_ARGUMENT", WRONG_USE)
        columns = Columns(
            label=label, fields=pairs(field, "--field"), name=name, labels=pairs(label_value, "--label-value")
        )
        rows = read_cases(data, task, columns, task.labels)
        questions = [Question(row.name, row.text) for row in (rows[:cases] if cases else rows)]
        key = read_key(key_file) if key_file is not None else None
        endpoint = Endpoint(url, model, key, timeout_s, price_in, price_out)
        shown = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*shown, console=console(), disable=as_json, transient=True) as progress:
            bar = progress.add_task("", total=len(questions))
            found = ask_all(
                endpoint,
                task,
                questions,
                out,
                concurrency=concurrency,
                progress=lambda done: progress.update(bar, completed=done),
            )
    except DataInvalid as error:
        raise Problem(str(error), "INVALID_ARGUMENT", WRONG_USE) from error
    except BundleInvalid as error:
        raise Problem(str(error), "NOT_FOUND") from error
    except ModelRefused as error:
        raise Problem(str(error), "FAILED_PRECONDITION") from error
    if failed := found["failed"]:
        case, why = next(iter(failed.items()))
        raise Problem(
            f"{len(failed)} of {len(questions)} cases got no answer, such as {case}: {why}; "
            f"{found['asked']} are in {out}, and the same command asks only the rest",
            "UNAVAILABLE",
        )
    if as_json:
        say_json(found | {"out": str(out)})
    else:
        say(f"{found['asked']} asked, {found['known']} known before: {out}")
        say(f"next: interlock eval run {specialist} ... --answers {model.split('/')[-1]}={out}")
