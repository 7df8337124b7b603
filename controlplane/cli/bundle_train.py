"""``interlock bundle train``: from somebody's labelled file to a bundle that is measured."""

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.bundle_store import BUNDLES
from controlplane.cli.eval import models_table
from controlplane.cli.labelled import (
    HELD_OUT_CASES,
    LABEL,
    DataOption,
    FieldOption,
    HeldOutOption,
    LabelOption,
    LabelValueOption,
    cases_of_files,
    cases_of_suite,
)
from controlplane.cli.output import WRONG_USE, JsonFlag, Problem, bar, command, marked, pairs, say, say_json, short

if TYPE_CHECKING:
    from controlplane.datasets.rows import Columns
    from controlplane.packs.published import PublishedSet
    from controlplane.packs.registry import Pack
    from controlplane.training.on_file import FileTraining, Prepared
    from controlplane.training.recipe import Recipe

WORDS = {"measure": "next, as it is served", "submit": "next, where a deployment has store and artifacts"}
BUDGET = 1_000_000  # tokens: a quarter of an hour of one core


@command
def train(
    specialist: Annotated[str, typer.Argument(help="Whose task is learned: a pack, or a folder's path with a slash.")],
    data: DataOption,
    author: Annotated[str, typer.Option(help="Whose bundle it is; that person may not approve it.")],
    dev: Annotated[Path | None, typer.Option(help="Labelled file to measure on; else a fifth of the data.")] = None,
    trainer: Annotated[str, typer.Option(help="encoder, additive or trees; else the pack's.")] = "",
    store: Annotated[
        Path, typer.Option("--store", envvar="INTERLOCK_BUNDLES", help="Folder of bundles: a deployment's, or any.")
    ] = BUNDLES,
    artifacts: Annotated[
        Path, typer.Option(help="Folder that keeps the training set, for later evaluations: the deployment's, or any.")
    ] = Path("artifacts"),
    label: LabelOption = LABEL,
    field: FieldOption = None,
    label_value: LabelValueOption = None,
    weight: Annotated[str | None, typer.Option(help="Column of case weights.")] = None,
    held_out: HeldOutOption = None,
    budget: Annotated[int, typer.Option(min=0, help="Tokens a language model reads at most; 0: no limit.")] = BUDGET,
    recipe: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER of a language model's recipe, such as rank=8; repeatable.")
    ] = None,
    base: Annotated[str, typer.Option(help="Base model: minilm, or a Hugging Face folder.")] = "minilm",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything that is drawn.")] = 0,
    licence: Annotated[str, typer.Option(help="Licence of the file, for the manifest.")] = "",
    quarantine: Annotated[bool, typer.Option(help="Set rows aside that cannot be used, and say so.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="New folder that keeps the rows learned from and judged on.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a bundle on a labelled file, behind the fence, and measure it beside the classical control."""
    from controlplane.datasets.rows import Columns
    from controlplane.packs.registry import LABELLED_FILE, load_pack
    from controlplane.training.on_file import FileTraining

    if keep is not None and keep.exists():
        raise Problem(f"{keep} exists, expected no such folder", "FAILED_PRECONDITION")
    if not author.strip():
        raise Problem(f"--author is {author!r}, expected who makes it", "INVALID_ARGUMENT", WRONG_USE)
    pack = load_pack(specialist, data if specialist == LABELLED_FILE else None)
    fields, labels = pairs(field, "--field", "FIELD=COLUMN"), pairs(label_value, "--label-value", "VALUE=LABEL")
    source = _source(specialist, pack, data, Columns(label=label, fields=fields, weight=weight, labels=labels))
    is_packs = source.task == pack.task
    asked = FileTraining(
        source=source,
        data=data,
        bundles=store,
        author=author,
        pack=specialist,
        trainer=_trainer(trainer or pack.trainer),
        suite=pack.suite.digest,
        recipe=_recipe(recipe or [], seed),
        judged=dev,
        held_out=[
            *(cases_of_suite(pack, HELD_OUT_CASES) if is_packs else ()),
            *cases_of_files((path, source) for path in held_out or ()),
        ],
        statements=pack.statements if is_packs else {},
        base=base,
        budget_tokens=budget,
        licence=licence,
        quarantine=quarantine or bool(source.name),
    )
    with nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory(prefix="interlock-train-") as folder:
        report = _trained(asked, Path(folder), artifacts, as_json)
    report["next"] = _next(report, asked, keep, is_packs)
    say_json(report) if as_json else _tell(report)


def _source(specialist: str, pack: "Pack", data: Path, columns: "Columns") -> "PublishedSet":
    """Say how a file is read: as the published set it is, where no columns are named, or as the task's own cases."""
    from controlplane.evals.published_run import known_set
    from controlplane.packs.published import PublishedSet

    return known_set(specialist, data, columns) or PublishedSet.of_task(pack.task, columns, pack.analysers)


def _trainer(name: str) -> str:
    from controlplane.packs.folder import TRAINERS

    if name not in TRAINERS:
        raise Problem(f"--trainer is {name!r}, expected one of {', '.join(TRAINERS)}", "INVALID_ARGUMENT", WRONG_USE)
    return name


def _recipe(changes: list[str], seed: int) -> "Recipe":
    """Change the usual recipe; raises Problem or FieldInvalid."""
    from controlplane.training.recipe import Recipe

    said: dict[str, Any] = {}
    for name, value in pairs(changes, "--recipe", "NAME=NUMBER").items():
        try:
            said[name] = json.loads(value)
        except ValueError:
            said[name] = value
    return Recipe.from_json({**said, "seed": seed})


def _trained(asked: "FileTraining", folder: Path, artifacts: Path, as_json: bool) -> dict[str, Any]:
    """Train, keep the training set, and measure; raises Problem or what a file's reader does."""
    from controlplane.datasets.build import DatasetRefused
    from controlplane.evals.engine import EngineFailed
    from controlplane.store.artifacts import Artifacts
    from controlplane.training import parent
    from controlplane.training.on_file import prepare
    from protos.contract.digest import canonical_json

    with bar(as_json, "reading") as progress:
        try:
            made = prepare(asked, folder)
            kept = Artifacts(artifacts)
            kept.put(made.rows.read_bytes())
            kept.put(canonical_json(made.manifest.to_json()))
            result = parent.train(made.config, folder, progress)
            measured = _measured(asked, made, result["bundle_digest"], progress)
        except DatasetRefused as error:
            raise Problem(f"{asked.data}: {error}", "INVALID_ARGUMENT", WRONG_USE) from error
        except EngineFailed as error:
            raise Problem(str(error), "UNAVAILABLE") from error
    return {
        "specialist": asked.source.task.name,
        "set": asked.source.name,
        "trainer": asked.trainer,
        "bundle": result["bundle_digest"],
        "store": str(asked.bundles),
        "training": {name: value for name, value in result.items() if name not in ("losses", "looks")},
        "data": made.manifest.to_json() | {"digest": made.manifest.digest},
        "set_aside": [f"row {one.number}: {one.problem}" for one in made.set_aside],
        "judged": measured["data"],
        **{name: measured[name] for name in ("models", "differences", "worker")},
    }


def _measured(asked: "FileTraining", made: "Prepared", bundle: str, progress: Any) -> dict[str, Any]:
    from controlplane.evals.labelled import LabelledRun
    from controlplane.evals.labelled_run import run_labelled
    from controlplane.packs.registry import load_metrics

    load_metrics()
    one = asked.source
    run = LabelledRun(
        bundles_dir=asked.bundles,
        bundle=bundle,
        data=made.judged,
        columns=one.columns,
        groups=one.groups,
        train=made.learned,
        metrics=one.metrics,
        seed=asked.recipe.seed,
        gateway_cases=0,
        quarantine=asked.quarantine,
    )
    report = run_labelled(run, progress)
    report["data"]["file"] = str(asked.judged or asked.data)
    return report


def _next(report: dict[str, Any], asked: "FileTraining", keep: Path | None, is_packs: bool) -> dict[str, str]:
    """Return the commands that a person may want now."""
    from controlplane.training.on_file import JUDGED

    bundle, found = report["bundle"], {}
    if judged := asked.judged or (keep and keep / JUDGED):
        told = f"--bundle {short(bundle)} --bundles {asked.bundles} --data {judged}"
        found["measure"] = f"interlock eval run {asked.pack} {told}"
    if is_packs:
        found["submit"] = f"interlock rollout start {report['specialist']} {bundle} --as {asked.author}"
    return found


def _tell(report: dict[str, Any]) -> None:
    data, training, judged = report["data"], report["training"], report["judged"]
    name = report["set"] or report["specialist"]
    latency = report["worker"]["latency_ms"]
    aside = report["set_aside"]
    say(
        f"{name}: {report['trainer']} learned from {training['examples']} of {data['rows']} rows in "
        f"{training['seconds']:.0f} s; the fence of {data['held_out']} texts kept {data['exact']} out exactly and "
        f"{data['near']} nearly",
        *([marked(f"{len(aside)} rows set aside, the first: {aside[0]}", "yellow")] if aside else ()),
        f"measured on {judged['cases']} cases of {judged['file']}, none of them learned from; the control learned from "
        "the same rows",
        models_table(report),
        f"bundle {report['bundle']} in {report['store']}; one decision takes {latency['p50']:.1f} ms, "
        f"99 of 100 at most {latency['p99']:.1f}",
        *(
            []
            if "submit" in report["next"]
            else ["its task is the set's own, which no deployment of the pack serves (controlplane/packs/TUTORIAL.md)"]
        ),
        *(f"{WORDS[step]}: {words}" for step, words in report["next"].items()),
    )
