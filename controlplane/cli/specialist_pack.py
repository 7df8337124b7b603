"""``interlock specialist init`` and ``try``: a specialist of your own, from an empty folder to a measured bundle."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.bundle_store import BUNDLES, BundlesOption
from controlplane.cli.output import JsonFlag, Problem, command, say, say_json, short, table
from protos.contract.fields import FieldInvalid

if TYPE_CHECKING:
    from controlplane.settings import ControlSettings

TEMPLATE = Path(__file__).parents[1] / "packs" / "template"
FILES = ("task.toml", "suite.toml", "pack.toml", "scenarios.py")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@command
def init(
    name: Annotated[str, typer.Argument(help="Name of the specialist, such as refund-abuse.")],
    into: Annotated[Path, typer.Option(help="Where its folder is made.")] = Path("packs"),
    published: Annotated[
        Path | None,
        typer.Option("--from", help="File of a published set, known by its columns: its task and its cases."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings of a deployment that shall serve it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a specialist's folder: task, suite, settings and scenarios, or a published set's, to be made your own."""
    from controlplane.packs.adopt import adopt
    from controlplane.packs.registry import PACKS

    if not _NAME.fullmatch(name) or len(name) > 60:
        raise FieldInvalid(f"name is {name!r}, expected lower-case words joined by '-', at most 60 characters")
    if name in PACKS:
        raise FieldInvalid(f"name is {name!r}, expected one that no pack has: {', '.join(PACKS)}")
    folder = into / name
    if folder.exists():
        raise Problem(f"{folder} exists, expected no such folder", "FAILED_PRECONDITION")
    deployment = _settings(config, name) if config is not None else None
    written = [str(path) for path in (_example(folder, name) if published is None else adopt(published, folder, name))]
    if config is not None:
        with config.open("a", encoding="utf-8") as settings:
            settings.write(f"\n[[controlplane.specialists]]\npack = {json.dumps(str(folder.resolve()))}\n")
    if as_json:
        say_json({"specialist": name, "folder": str(folder), "files": written})
        return
    places = f" --store {deployment.bundles_dir} --artifacts {deployment.artifacts_dir}" if deployment else ""
    following = (
        f"specialist try {folder}"
        if published is None
        else f"bundle train {folder}/ --data {published} --author YOU{places}"
    )
    say("\n".join(f"wrote {path}" for path in written), f"next: interlock {following}")


def _settings(config: Path, name: str) -> "ControlSettings":
    """Read a deployment's settings; raises Problem where it has a specialist of that name already."""
    from controlplane.packs.registry import name_of
    from controlplane.settings import ControlSettings

    if not config.is_file():
        raise Problem(f"{config} does not exist, expected a deployment's settings", "NOT_FOUND")
    settings = ControlSettings.read(config)
    for one in settings.specialists:
        if name_of(one.pack) == name:
            raise Problem(
                f"name is {name!r}, which {config} has as {one.pack}, expected another", "FAILED_PRECONDITION"
            )
    return settings


def _example(folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True)
    for file in FILES:
        shutil.copyfile(TEMPLATE / file, folder / file)
    task = folder / "task.toml"
    task.write_text(task.read_text("utf-8").replace('name = "NAME"', f'name = "{name}"', 1), "utf-8")
    return [folder / file for file in FILES]


@command
def try_pack(
    folder: Annotated[Path, typer.Argument(help="A specialist's folder.")],
    bundles: BundlesOption = BUNDLES,
    cases: Annotated[Path | None, typer.Option(help="Write the held-out cases here, as JSON Lines.")] = None,
    examples: Annotated[int, typer.Option(min=50, max=100_000, help="Cases to learn from.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the scenarios.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Check a specialist's folder, fit a classical bundle on its scenarios and measure it on held-out ones."""
    from controlplane.packs.registry import load_pack

    pack = load_pack(f"{folder}/")
    report = _tried(pack, bundles, cases, examples, seed)
    if as_json:
        say_json(report)
        return
    core, shifted = report["metrics"]["core"], report["metrics"]["shifted"]
    rows = [(metric, f"{value:.3f}", f"{shifted.get(metric, float('nan')):.3f}") for metric, value in core.items()]
    bundle = short(report["bundle"])
    say(
        table("", ("metric", "held out", "shifted"), rows),
        f"bundle {bundle} in {bundles}\n"
        f"next: interlock eval run {folder}/ --bundle {bundle} --bundles {bundles} --data FILE",
    )


def _tried(pack: Any, bundles: Path, cases: Path | None, examples: int, seed: int) -> dict[str, Any]:
    import numpy as np

    from controlplane.evals import registry
    from controlplane.evals.inputs import input_of
    from controlplane.evals.registry import Answers
    from controlplane.training import additive, trees
    from protos.contract.bundle import BundleStore

    task = pack.task
    parts = (task, pack.training_set(examples, seed), pack.held_out(200, seed + 1))
    fitted = (trees if pack.trainer == "trees" else additive).fit(*parts, seed=seed, analysers=pack.analysers)
    digest = fitted.export(task, BundleStore(bundles), {"author": "specialist try"}, pack.statements)
    model = fitted.model(task)
    measured: dict[str, dict[str, float]] = {}
    for part, held in (("core", pack.held_out(400, seed)), ("shifted", pack.held_out_shifted(400, seed))):
        told = fitted.head.probabilities(model.logits([case.text for case in held]))
        labels = np.array([task.labels.index(case.label) for case in held])
        answers = Answers.of(task, labels, told, fitted.head.decisions(task, told))
        found = {named.text: float(named.value(answers)[0]) for named in registry.usual(answers)}
        measured[part] = {metric: round(value, 6) for metric, value in found.items() if np.isfinite(value)}
        if cases is not None and part == "core":
            with cases.open("w", encoding="utf-8") as file:
                for case in held:
                    given = input_of(task, case.text)
                    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in given.fields.items()}
                    row = values or {task.fields[0].name: given.text}
                    file.write(json.dumps({**row, "label": case.label, "slice": case.slice}) + "\n")
    return {"specialist": task.name, "bundle": digest, "examples": examples, "metrics": measured}
