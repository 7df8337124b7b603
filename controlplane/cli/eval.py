"""``interlock eval``: measure a bundle on any labelled file, here and now, without a control plane."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from controlplane.cli.bundle_store import BUNDLES, BundlesOption, find_bundle, find_bundle_of
from controlplane.cli.eval_ask import ask
from controlplane.cli.labelled import LABEL, DataOption, FieldOption, LabelOption, LabelValueOption
from controlplane.cli.output import JsonFlag, Problem, bar, command, marked, pairs, say, say_json, short, table
from controlplane.cli.processes import Front, ServersOption, servers_of_file
from controlplane.report.words import answered
from protos.contract.bundle import BundleStore

if TYPE_CHECKING:
    from controlplane.evals.labelled import LabelledRun

app = typer.Typer(help="Evaluate bundles on labelled files.", no_args_is_help=True)
app.command("ask")(ask)
_MOST_SLICES = 30


@app.command("run")
@command
def run(
    specialist: Annotated[str, typer.Argument(help="The specialist that the bundle is for, or its folder's path.")],
    bundle: Annotated[str, typer.Option(help="Digest of the bundle, or the beginning of one.")],
    data: DataOption,
    bundles: BundlesOption = BUNDLES,
    label: LabelOption = LABEL,
    field: FieldOption = None,
    label_value: LabelValueOption = None,
    group: Annotated[list[str] | None, typer.Option(help="GROUP=LABEL,LABEL: judge by coarser labels.")] = None,
    slice_by: Annotated[list[str] | None, typer.Option("--slice", help="Column whose values make slices.")] = None,
    weight: Annotated[str | None, typer.Option(help="Column of case weights.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Column that a metric looks at.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric more; see `interlock eval metrics`.")] = None,
    rival: Annotated[str, typer.Option(help="Another bundle to compare with, case by case.")] = "",
    train: Annotated[Path | None, typer.Option(help="Labelled file to fit the classical control on.")] = None,
    name: Annotated[str | None, typer.Option(help="Column naming a row, which recorded answers are joined by.")] = None,
    answers: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: another model's answers, as `interlock eval ask` records them.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=100, max=100_000, help="Bootstrap rounds.")] = 1000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything that is drawn.")] = 0,
    robustness_cases: Annotated[
        int, typer.Option(min=0, help="Cases also asked with hostile texts and absurd values.")
    ] = 100,
    gateway_cases: Annotated[int, typer.Option(min=0, help="Cases also asked through a real gateway.")] = 200,
    tmax_ms: Annotated[
        float | None, typer.Option(min=1, max=60_000, help="What a caller gives; else the task's deadline.")
    ] = None,
    front: Annotated[Front, typer.Option(help="The gateway's.")] = "auto",
    quarantine: Annotated[bool, typer.Option(help="Set rows aside that cannot be used, and say so.")] = False,
    config: ServersOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a labelled file through a real worker or server, and a part of it through a real gateway."""
    from controlplane.datasets.rows import Columns
    from controlplane.evals.labelled import LabelledRun
    from controlplane.packs.registry import name_of

    store = BundleStore(bundles)
    columns = Columns(
        label=label,
        fields=pairs(field, "--field"),
        slices=tuple(slice_by or ()),
        weight=weight,
        name=name,
        kept=tuple(keep or ()),
        labels=pairs(label_value, "--label-value"),
    )
    asked = LabelledRun(
        bundles_dir=bundles,
        bundle=find_bundle_of(store, bundle, name_of(specialist)),
        data=data,
        columns=columns,
        rival=find_bundle(store, rival) if rival else None,
        groups={name: tuple(labels.split(",")) for name, labels in pairs(group, "--group").items()},
        train=train,
        answers={what: Path(path) for what, path in pairs(answers, "--answers").items()},
        metrics=tuple(metric or ()),
        rounds=rounds,
        confidence=confidence,
        seed=seed,
        robustness_cases=robustness_cases,
        gateway_cases=gateway_cases,
        budget_us=None if tmax_ms is None else round(1000 * tmax_ms),
        front=front,
        quarantine=quarantine,
        engines=servers_of_file(config),
    )
    report = _measured(specialist, asked, as_json)
    say_json(report) if as_json else say(*_shown(report))


def _measured(specialist: str, asked: "LabelledRun", as_json: bool) -> dict[str, Any]:
    """Run the evaluation; a published set's own columns are used where none were named."""
    from controlplane.datasets.rows import DataInvalid
    from controlplane.evals.engine import EngineFailed
    from controlplane.evals.labelled_run import run_labelled
    from controlplane.evals.note_run import is_of_notes, run_notes
    from controlplane.evals.published_run import as_published, is_of_another_task
    from controlplane.packs.registry import load_metrics

    load_metrics()
    read, name = asked, ""
    task = BundleStore(asked.bundles_dir).manifest(asked.bundle).task
    with tempfile.TemporaryDirectory(prefix="interlock-eval-") as scratch, bar(as_json) as progress:
        try:
            if is_of_notes(task, asked):
                report = run_notes(asked, progress)
            else:
                read, name = as_published(specialist, asked, Path(scratch))
                report = run_labelled(read, progress)
        except EngineFailed as error:
            raise Problem(str(error), "UNAVAILABLE") from error
        except DataInvalid as error:
            said = str(error).replace(str(read.data), str(asked.data))
            if name and is_of_another_task(specialist, asked.data, task):
                said += f"; the file is of {name}, expected a bundle that learned from that set"
            raise DataInvalid(said) from error
    report["data"] |= {"file": str(asked.data), "set": name}
    return report


@app.command("metrics")
@command
def metrics(as_json: JsonFlag = False) -> None:
    """List the metrics that suites and reports may name."""
    from controlplane.evals import registry
    from controlplane.packs.registry import load_metrics

    load_metrics()
    found = registry.described()
    if as_json:
        say_json(found)
        return
    rows = [(one["name"], "higher" if one["higher_is_better"] else "lower", one["description"]) for one in found]
    say(table("", ("metric", "better", "meaning"), rows))


def _shown(report: dict[str, Any]) -> list[RenderableType]:
    data, bootstrap = report["data"], report["bootstrap"]
    labels = ", ".join(f"{name} {n}" for name, n in list(data["labels"].items())[:8])
    more = len(data["labels"]) - 8
    parts: list[RenderableType] = [
        f"{report['specialist']} {short(report['bundle'])} on {data['file']}: {data['cases']} cases"
        f"{f' ({labels}' if labels else ''}{f' and {more} more' if more > 0 else ''}{')' if labels else ''}"
        f", {len(data['set_aside'])} set aside\n"
        f"intervals: {bootstrap['confidence']:.0%} of {bootstrap['rounds']} bootstrap rounds\n"
    ]
    parts += [marked(answered(name, about), "") for name, about in report["elsewhere"].items()]
    parts.append(models_table(report))
    parts += [f"{name} refused {n} cases, which have the fallback" for name, n in report["refused"].items()]
    names = ("accuracy", "macro_f1", "mean_cost")
    for column, slices in report["slices"].items():
        rows = [
            (one["value"], one["cases"], *(_span(one["metrics"].get(name)) for name in names))
            for one in slices[:_MOST_SLICES]
        ]
        parts += ["", table(f"by {column}", (column, "cases", *names), rows)]
    rows = [
        (
            one["change"],
            one["cases"],
            one["refused"],
            f"{one['decisions_changed']:.1%}",
            *(_span(one["metrics"].get(name)) for name in names),
        )
        for one in report["robustness"]
    ]
    if rows:
        parts += ["", table("changed cases", ("change", "cases", "refused", "decisions changed", *names), rows)]
    bins = [b for b in report["calibration"] if b["cases"]]
    rows = [(f"{b['from']:.1f} to {b['to']:.1f}", b["cases"], f"{b['said']:.3f}", _gap(b)) for b in bins]
    parts += ["", table("calibration", ("probability", "cases", "said", "right"), rows), ""] if rows else [""]
    if (moved := report["stability"]) is not None:
        worst = sorted(moved["fields"].items(), key=lambda item: -item[1])[:_MOST_SLICES]
        indices = [("score", moved["score"]), *worst]
        shown = [
            (name, marked(f"{value:.3f}", "yellow" if value > moved["convention"] else "")) for name, value in indices
        ]
        parts += [table("population stability since training", ("of", "index"), shown), ""]
    parts += _speed(report)
    return parts


def models_table(report: dict[str, Any]) -> RenderableType:
    """Draw a metric a row: the bundle, every other model, and how much better the bundle is."""
    models, differences = report["models"], report["differences"]
    heads = [name for model in models for name in ((model,) if model == "bundle" else (model, f"better than {model}"))]
    rows = []
    for metric, ours in models["bundle"].items():
        row: list[object] = [metric, _span(ours)]
        for name in list(models)[1:]:
            gap = differences[name].get(metric)
            row += [_span(models[name].get(metric)), marked(_span(gap, "advantage"), _colour(gap))]
        rows.append(row)
    return table("", ("metric", *heads), rows)


def _colour(gap: dict[str, Any] | None) -> str:
    """Colour a difference whose interval leaves no doubt."""
    if gap is None or gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return ""
    return "green" if gap["low"] > 0 else "red"


def _gap(found: dict[str, Any]) -> object:
    return marked(f"{found['right']:.3f}", "yellow" if abs(found["right"] - found["said"]) > 0.1 else "")


def _speed(report: dict[str, Any]) -> list[RenderableType]:
    engine = "server" if "bundle" in report["elsewhere"] else "worker"
    rows = [(engine, report["worker"]["timed_cases"], *_milliseconds(report["worker"]["latency_ms"]), "", "")]
    parts: list[RenderableType] = []
    for name, about in report["recorded"].items():
        if "latency_ms" in about:
            rows.append((f"{name}, recorded", report["data"]["cases"], *_milliseconds(about["latency_ms"]), "", ""))
        cost = f", {about['cost_per_decision']:.3g} a decision" if "cost_per_decision" in about else ""
        parts.append(f"{name}: {about['failures']} answers were none of the labels{cost}")
    if (seen := report["gateway"]) is not None:
        rows.append(
            (
                "gateway",
                seen["cases"],
                *_milliseconds(seen["latency_ms"]),
                f"{seen['decided_in_time']:.1%}",
                f"{seen['fallback_rate']:.1%}",
            )
        )
        said = "".join(f", {n} {reason}" for reason, n in (seen["fallbacks"] | seen["failures"]).items())
        if "mean_cost" in seen:
            said += (
                f"; cost of what callers got {seen['mean_cost']:.4f}, of the engine's {seen['mean_cost_of_engine']:.4f}"
            )
        parts.append(f"callers gave {seen['budget_ms']:g} ms{said}")
        if (huge := seen["oversize"])["cases"]:
            refused = "".join(f", {n} {status}" for status, n in huge["refused"].items())
            parts.append(f"{huge['cases']} calls of {huge['bytes']:,} bytes: {huge['answered']} answered{refused}")
    columns = ("one at a time", "cases", "p50 ms", "p90 ms", "p99 ms", "decided in time", "fallbacks")
    return [table("", columns, rows), *parts]


def _milliseconds(found: dict[str, float]) -> list[str]:
    return [f"{found[name]:.2f}" for name in ("p50", "p90", "p99")]


def _span(found: dict[str, Any] | None, name: str = "value") -> str:
    if found is None or found[name] is None:
        return ""
    span = "" if found["low"] is None else f" ({found['low']:.3f}…{found['high']:.3f})"
    return f"{round(found[name], 4) + 0:.4f}{span}"  # no zero has a sign
