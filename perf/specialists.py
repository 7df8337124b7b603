"""``make results``: every published set, from its train part to a bundle to ``interlock eval run`` on its dev part.

Writes ``perf/results/specialists.json`` and the README's table, set by set: what is done counts, and ``--missing`` goes
on from there. Sets that are not on this machine keep the rows they have. The language model learns where all of a case
is text, and reads ``ENCODER_TOKENS`` tokens doing so, which takes four to five minutes of one core a set.
"""

import argparse
import contextlib
import gzip
import json
import random
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.cli.output import bar
from controlplane.datasets.rows import read_cases
from controlplane.evals import registry
from controlplane.evals.labelled import LabelledRun
from controlplane.evals.labelled_run import run_labelled
from controlplane.evals.published_run import as_published
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import FOLDERS, load_metrics, load_pack
from controlplane.training import parent
from controlplane.training.on_file import FileTraining, prepare
from controlplane.training.recipe import Recipe
from perf import notes
from perf.marked import replace_marked
from perf.processes import ROOT
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.features import CHARACTERS_PER_TOKEN

RESULTS = ROOT / "perf" / "results" / "specialists.json"
README = ROOT / "README.md"
PRICES = ROOT / "perf" / "prices.toml"
BEGIN, END = "<!-- perf/results/specialists.json begins -->", "<!-- perf/results/specialists.json ends -->"
# Over all epochs: about a thousand a second and core, so that all sets take half an hour on two cores.
ENCODER_TOKENS = 250_000
# Every case twice: HateCheck is answered by the model of tweets too, and encounters are long and few.
ENCODER_TOKENS_OF = {"brand-safety-hate-davidson": 700_000, "clinical-note-mts-dialog": 400_000}
DEV_CASES = 2000
# What learns, and its column of the README's table.
ENGINES = {"encoder": "language model", "additive": "additive", "trees": "trees"}
AUTHOR = "make-results"
# Others' numbers are for the whole set; which part we learn and answer from is drawn once.
SEED = 7


def parts_of(folder: Path) -> dict[str, Path]:
    """Return a set's train and dev files, whichever there are."""
    found = {}
    for part in ("train", "dev"):
        for path in sorted(folder.glob(f"{part}.*")):
            found[part] = path
    return found


def train(one: PublishedSet, engine: str, data: Path, bundles: Path, threads: int) -> str:
    """Train on a set's train part as ``interlock bundle train`` does, and return the bundle's digest."""
    parts = parts_of(data / one.name)
    asked = FileTraining(
        source=one,
        data=parts["train"],
        judged=parts.get("dev"),
        bundles=bundles,
        author=AUTHOR,
        pack=one.task.name,
        trainer=engine,
        suite=load_pack(one.task.name).suite.digest,
        recipe=Recipe(seed=SEED, threads=threads),
        budget_tokens=ENCODER_TOKENS_OF.get(one.name, ENCODER_TOKENS),
        quarantine=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(asked, Path(folder))
        with bar(as_json=False) as tell:
            digest: str = parent.train(made.config, Path(folder), tell)["bundle_digest"]
    return digest


def reads(engine: str, one: PublishedSet) -> bool:
    """Say whether an engine is asked of a set: the language model of texts, trees of numbers and categories."""
    are_texts = [field.kind == "text" and one.analysers.get(field.name) != "whole" for field in one.task.fields]
    return {"encoder": all(are_texts), "trees": not any(are_texts)}.get(engine, True)


def _learned(one: PublishedSet, data: Path) -> PublishedSet:
    """Return the set that a set's bundles learn from: itself, or the tweets for a set without a train part."""
    name = one.name if "train" in parts_of(data / one.name) else "brand-safety-hate-davidson"
    return next(s for s in load_pack(one.task.name).sets if s.name == name)


def measure(
    one: PublishedSet, engine: str, data: Path, bundles: Path, made: dict[tuple[str, str], str], threads: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one set and engine; ``made`` keeps bundles by the set they learned from."""
    parts = parts_of(data / one.name)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        learned = _learned(one, data)
        if (learned.name, engine) not in made:
            made[learned.name, engine] = train(learned, engine, data, bundles, threads)
        digest = made[learned.name, engine]
        dev_file = _sample(parts["dev"], scratch)
        control = parts.get("train") if engine == "additive" else None
        asked = LabelledRun(bundles, digest, dev_file, train=control, rounds=200, gateway_cases=100)
        read, _ = as_published(one.task.name, asked, scratch)
        report = run_labelled(read)
        dev = read_cases(read.data, one.task, read.columns, one.labels, set_aside=lambda _: None)
        tokens = sum(len(case.text) for case in dev) / len(dev) / CHARACTERS_PER_TOKEN
    for metric in one.metrics:
        ours = report["models"]["bundle"].get(metric)
        if ours is None or ours["value"] is None:
            continue
        control = report["models"].get("control", {}).get(metric)
        yield {
            "specialist": one.task.name,
            "set": one.name,
            "engine": engine,
            "metric": metric,
            "ours": round(ours["value"], 4),
            "low": rounded(ours["low"]),
            "high": rounded(ours["high"]),
            "control": None if control is None else rounded(control["value"]),
            "published": one.published.get(metric),
            "n": report["data"]["cases"],
            "bundle": digest,
            "worker_ms": {name: round(value, 3) for name, value in report["worker"]["latency_ms"].items()},
            "gateway_ms": {name: round(value, 3) for name, value in report["gateway"]["latency_ms"].items()},
            "cpu_ms": rounded(report["gateway"]["cpu_ms"]),
            "tokens": round(tokens, 1),
        }


def rounded(value: float | None) -> float | None:
    """Return a figure as it is recorded."""
    return None if value is None else round(value, 4)


def _sample(path: Path, scratch: Path) -> Path:
    """Take at most ``DEV_CASES`` lines of a dev part, drawn once; the header of a CSV stays."""
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    head, rows = (lines[:1], lines[1:]) if ".csv" in path.name else ([], lines)
    if len(rows) <= DEV_CASES:
        return path
    kept = sorted(random.Random(SEED).sample(range(len(rows)), DEV_CASES))
    target = scratch / f"dev-sample{''.join(path.suffixes[:-1])}"
    target.write_bytes(b"".join(head + [rows[i] for i in kept]))
    return target


def write_table(rows: Sequence[dict[str, Any]]) -> None:
    """Put the results into the README, between its marks."""
    replace_marked(README, BEGIN, END, tables(rows))


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the README shows: how good, then how fast and at what cost."""
    engines = [name for name in ENGINES if any(r["engine"] == name for r in rows)]
    names = [ENGINES[name] for name in engines]
    heads = ("specialist", "set", "metric", *names, "control", "classical elsewhere", "n")
    table = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for specialist, name, metric in dict.fromkeys((r["specialist"], r["set"], r["metric"]) for r in rows):
        found = {r["engine"]: r for r in rows if (r["specialist"], r["set"], r["metric"]) == (specialist, name, metric)}
        any_row = next(iter(found.values()))
        best = (max if _is_better_higher(metric) else min)(float(r["ours"]) for r in found.values())
        shown = [_cell(found.get(name), best) for name in engines]
        control = next((row["control"] for row in found.values() if row["control"] is not None), None)
        shown += [_plain(control), _plain(any_row["published"])]
        cells = [specialist, name, metric, *shown, f"{any_row['n']:,}"]
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join([*table, "", *_costs(rows, engines)])


def _costs(rows: Sequence[dict[str, Any]], engines: Sequence[str]) -> list[str]:
    """Return the table of one decision's latency and cost a specialist, beside a call of a frontier model."""
    prices = tomllib.loads(PRICES.read_text("utf-8"))
    core, frontier = prices["core"], prices["frontier"]
    heads = ("specialist", "engine", "p50, p99 of one", "CPU a decision", "USD a million", "a frontier call's")
    table = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for specialist in dict.fromkeys(r["specialist"] for r in rows):
        for engine in engines:
            # A set's rows are of one run; sets of a specialist differ in length, so the slowest stands for all.
            mine = [r for r in rows if (r["specialist"], r["engine"]) == (specialist, engine) and r.get("cpu_ms")]
            if not mine:
                continue
            row = max(mine, key=lambda r: r["cpu_ms"])
            ours = row["cpu_ms"] / 1000 / 3600 * core["usd_per_hour"] * 1e6
            called = (row["tokens"] + frontier["instruction_tokens"]) * frontier["usd_per_million_input"]
            theirs = called + frontier["answer_tokens"] * frontier["usd_per_million_output"]
            speed = row["worker_ms"]
            cells = [
                specialist,
                ENGINES[engine],
                f"{speed['p50']:.2f}, {speed['p99']:.2f} ms",
                f"{row['cpu_ms']:.2f} ms",
            ]
            table.append("| " + " | ".join([*cells, f"{ours:.3f}", f"{theirs:,.0f}"]) + " |")
    return [
        *table,
        "",
        f"A core at {core['usd_per_hour']} USD an hour ({core['source']}, {core['date']}). A frontier call: "
        f"{frontier['usd_per_million_input']:.2f} and {frontier['usd_per_million_output']:.2f} USD a million tokens "
        f"in and out ({frontier['source']}, {frontier['date']}), with {frontier['instruction_tokens']} tokens of "
        f"instructions, {frontier['answer_tokens']} of answer and {frontier['latency_ms']} ms assumed "
        "(`perf/prices.toml`).",
    ]


def _is_better_higher(metric: str) -> bool:
    """Say which way a metric points; those of whole notes are not among the suites' and rise."""
    try:
        return registry.higher_is_better(metric)
    except registry.MetricUnknown:
        return True


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(row: dict[str, Any] | None, best: float) -> str:
    if row is None:
        return ""
    mark = "**" if row["ours"] == best else ""
    return f"{mark}{row['ours']:.3f}{mark} ({row['low']:.3f} to {row['high']:.3f})"


def main() -> None:
    """Measure what is asked for and keep the rest."""
    parser = argparse.ArgumentParser("python -m perf.specialists", description="Specialists on published sets.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where the sets lie")
    parser.add_argument("--bundles", type=Path, default=ROOT / "var" / "results" / "bundles")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="only these")
    parser.add_argument("--set", action="append", dest="sets", help="only these")
    parser.add_argument("--missing", action="store_true", help="only what has no row yet, by bundles that are there")
    parser.add_argument("--threads", type=int, default=2, help="of the language model's training")
    parser.add_argument("--bundle", help="measure this bundle instead of training one; with one --set and --engine")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows are kept")
    parser.add_argument("--table", action="store_true", help="only write the README's table again")
    chosen = parser.parse_args()
    load_metrics()
    rows: list[dict[str, Any]] = json.loads(chosen.results.read_text()) if chosen.results.exists() else []
    made = kept_bundles(rows, chosen.bundles) if chosen.missing else {}
    if chosen.missing and (lost := without_bundles(rows, made)):
        sys.stdout.write(
            f"{chosen.bundles} has not the bundles of {len(lost)} recorded results, which stay: {', '.join(lost)}\n"
            "--set and --engine train one and measure it again\n"
        )
    for pack, one, engine in _asked(chosen):
        key = (pack, one.name, engine)
        if chosen.missing and any((r["specialist"], r["set"], r["engine"]) == key for r in rows):
            continue
        sys.stdout.write(f"{one.name} {engine}\n")
        sys.stdout.flush()
        if chosen.bundle:
            made[_learned(one, chosen.data).name, engine] = chosen.bundle
        found = list(measure(one, engine, chosen.data, chosen.bundles, made, chosen.threads))
        rows = [r for r in rows if (r["specialist"], r["set"], r["engine"]) != key] + found
        _keep(rows, chosen.results)
    for name, shown in notes.NAMES.items():
        if not _wants_notes(chosen, rows, name):
            continue
        sys.stdout.write(f"{shown}\n")
        rows = [r for r in rows if r["set"] != shown]
        rows += notes.measure(name, chosen.data, chosen.bundles, {"author": AUTHOR})
        _keep(rows, chosen.results)
    if chosen.results == RESULTS:
        write_table(rows)


def kept_bundles(rows: Sequence[dict[str, Any]], bundles: Path) -> dict[tuple[str, str], str]:
    """Return the bundles that rows were measured with and that are still there, by set and engine."""
    store, found = BundleStore(bundles), {}
    for row in rows:
        with contextlib.suppress(BundleInvalid):
            store.load(row["bundle"])
            found[row["set"], row["engine"]] = row["bundle"]
    return found


def without_bundles(rows: Sequence[dict[str, Any]], there: Mapping[tuple[str, str], str]) -> list[str]:
    """Name the results, by set and engine, that nobody can ask again: their bundles are not there."""
    return [
        f"{name} ({engine})"
        for name, engine in dict.fromkeys((r["set"], r["engine"]) for r in rows)
        if (name, engine) not in there
    ]


def _keep(rows: list[dict[str, Any]], path: Path) -> None:
    rows.sort(key=lambda r: (FOLDERS.index(r["specialist"]), r["set"], r["metric"], r["engine"]))
    path.write_text(json.dumps(rows, indent=1) + "\n")


def _wants_notes(chosen: argparse.Namespace, rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Say whether a set's whole notes are to be measured: by the engine that chooses their sentences."""
    is_asked = not chosen.table and name in (chosen.sets or notes.NAMES)
    is_there = chosen.missing and any(r["set"] == notes.NAMES[name] for r in rows)
    return is_asked and "additive" in (chosen.engine or ENGINES) and not is_there and (chosen.data / name).is_dir()


def _asked(chosen: argparse.Namespace) -> Iterator[tuple[str, PublishedSet, str]]:
    """Yield pack, set and engine of all that is to be measured."""
    for pack in FOLDERS if not chosen.table else ():
        for one in load_pack(pack).sets:
            if (chosen.sets and one.name not in chosen.sets) or not parts_of(chosen.data / one.name):
                continue
            yield from ((pack, one, engine) for engine in chosen.engine or ENGINES if reads(engine, one))


if __name__ == "__main__":
    main()
