"""``interlock eval ask``: have another model decide the same cases, and record its answers for ``eval run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.bundle_store import BUNDLES, BundlesOption, find_bundle_of
from controlplane.cli.labelled import LABEL, DataOption, FieldOption, LabelOption, LabelValueOption
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, bar, command, pairs, say, say_json
from protos.contract.bundle import BundleStore

if TYPE_CHECKING:
    from controlplane.datasets.rows import Case, Columns
    from protos.contract.task import TaskSpec


@command
def ask(
    specialist: Annotated[str, typer.Argument(help="The specialist whose task is asked, or its folder's path.")],
    bundle: Annotated[str, typer.Option(help="Digest of the bundle to compare with, or the beginning of one.")],
    data: DataOption,
    url: Annotated[str, typer.Option(help="Base of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the server.")],
    out: Annotated[Path, typer.Option(help="JSON Lines of answers; what it holds already is not asked again.")],
    bundles: BundlesOption = BUNDLES,
    label: LabelOption = LABEL,
    field: FieldOption = None,
    label_value: LabelValueOption = None,
    name: Annotated[str | None, typer.Option(help="Column naming a row; else its number.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File whose first line is the server's key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds an answer may take.")] = 60.0,
    price_in: Annotated[float, typer.Option(min=0, help="Per million tokens read.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Per million tokens written.")] = 0.0,
    cases: Annotated[int, typer.Option(min=0, help="Ask only the first so many cases, 0 for all.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Ask a live model and record label, latency and cost of each decision.

    Then: interlock eval run ... --answers NAME=OUT
    """
    from controlplane.datasets.rows import Columns
    from controlplane.evals.asking import Endpoint, ModelRefused, Question, ask_all, read_key
    from controlplane.packs.registry import name_of

    if not url.startswith(("http://", "https://")):
        raise Problem(f"--url is {url!r}, expected http:// or https://", "INVALID_ARGUMENT", WRONG_USE)
    store = BundleStore(bundles)
    task = store.manifest(find_bundle_of(store, bundle, name_of(specialist))).task
    columns = Columns(
        label=label, fields=pairs(field, "--field"), name=name, labels=pairs(label_value, "--label-value")
    )
    rows = _cases(specialist, data, task, columns)
    questions = [Question(row.name, row.text) for row in (rows[:cases] if cases else rows)]
    key = read_key(key_file) if key_file is not None else None
    endpoint = Endpoint(url, model, key, timeout_s, price_in, price_out)
    with bar(as_json) as progress:
        try:
            found = ask_all(endpoint, task, questions, out, concurrency=concurrency, progress=progress)
        except ModelRefused as error:
            raise Problem(str(error), "FAILED_PRECONDITION") from error
    _check_whole(found, len(questions), out)
    if as_json:
        say_json(found | {"out": str(out)})
    else:
        say(f"{found['asked']} asked, {found['known']} known before: {out}")
        say(f"next: interlock eval run {specialist} ... --answers {model.split('/')[-1]}={out}")


def _cases(specialist: str, data: Path, task: "TaskSpec", columns: "Columns") -> "list[Case]":
    """Read the cases as ``interlock eval run`` does, a published set by its own columns; raises DataInvalid."""
    from controlplane.evals.published_run import source_of

    source = source_of(specialist, task, data, columns)
    return source.cases(data, source.labels)


def _check_whole(found: dict[str, Any], questions: int, out: Path) -> None:
    """Raise Problem where a case got no answer."""
    if not (failed := found["failed"]):
        return
    case, why = next(iter(failed.items()))
    raise Problem(
        f"{len(failed)} of {questions} cases got no answer, such as {case}: {why}; "
        f"{found['asked']} are in {out}, and the same command asks only the rest",
        "UNAVAILABLE",
    )
