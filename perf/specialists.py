"""``make results``: every published set, from its train part to a bundle to ``interlock eval run`` on its dev part.

Writes ``perf/results/specialists.json`` and the README's table. Sets that are not on this machine keep the rows
they have. The language model learns from at most ``ENCODER_CASES`` cases, the additive model from all.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from controlplane.datasets.rows import Case, read_cases
from controlplane.evals.labelled_run import LabelledRun, run_labelled
from controlplane.evals.published_run import as_published
from controlplane.packs.example import Example
from controlplane.packs.published import PublishedSet
from controlplane.packs.registry import FOLDERS, load_metrics, load_pack
from controlplane.training.additive import fit
from controlplane.training.dataset import fence, write_dataset
from perf.processes import ROOT
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json

RESULTS = ROOT / "perf" / "results" / "specialists.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- perf/results/specialists.json begins -->", "<!-- perf/results/specialists.json ends -->"
ENCODER_CASES = 2000
DEV_CASES = 2000
ZERO = "sha256:" + "0" * 64
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


def cases_of(one: PublishedSet, path: Path, scratch: Path) -> list[Case]:
    """Read the cases of a part that the set's task can judge."""
    return read_cases(one.prepared(path, scratch), one.task, one.columns, one.task.labels, set_aside=lambda _: None)


def train_additive(one: PublishedSet, cases: Sequence[Case], bundles: Path, scratch: Path) -> str:
    """Fit on nine tenths, calibrate on the rest."""
    order = random.Random(SEED).sample(range(len(cases)), len(cases))
    dev = order[: min(2000, len(cases) // 10)]
    rest = order[len(dev) :]
    fitted = fit(
        one.task,
        [Example(cases[i].text, cases[i].label) for i in rest],
        [Example(cases[i].text, cases[i].label) for i in dev] if one.columns.weight is None else [],
        seed=SEED,
        analysers=one.analysers,
        weights=[cases[i].weight for i in rest],
    )
    return fitted.export(one.task, BundleStore(bundles), {"author": AUTHOR})


def train_encoder(one: PublishedSet, cases: Sequence[Case], bundles: Path, scratch: Path) -> str:
    """Fine-tune as the control plane does, in its child process."""
    drawn = random.Random(SEED).sample(list(cases), min(len(cases), ENCODER_CASES))
    examples = [Example(case.text, case.label) for case in drawn]
    dev = examples[: len(examples) // 8]
    training, _ = fence(examples[len(dev) :], dev)
    write_dataset(scratch / "train.jsonl", training)
    write_dataset(scratch / "dev.jsonl", dev)
    config = {
        "specialist": one.task.name,
        "pack": one.task.name,
        "data": None,
        "trainer": "encoder",
        "task": one.task.to_json(),
        "train_file": str(scratch / "train.jsonl"),
        "dev_file": str(scratch / "dev.jsonl"),
        "bundles_dir": str(bundles),
        "recipe": {"epochs": 2, "threads": 2, "seed": SEED},
        "max_seconds": 3000,
        "author": AUTHOR,
        "parent": None,
        "dataset_digest": ZERO,
        "suite_digest": ZERO,
    }
    (scratch / "config.json").write_bytes(canonical_json(config))
    command = [sys.executable, "-m", "controlplane.training", "--config", str(scratch / "config.json")]
    # The child ends with its input, which therefore stays open until it is done.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        last = json.loads(child.stdout.read().splitlines()[-1])
    if last["event"] != "done":
        raise RuntimeError(f"{one.name}: training failed: {last.get('error')}")
    digest: str = last["result"]["bundle_digest"]
    return digest


ENGINES: dict[str, Callable[[PublishedSet, Sequence[Case], Path, Path], str]] = {
    "additive": train_additive,
    "encoder": train_encoder,
}

TITLES = {"encoder": "language model", "additive": "additive"}  # columns of the README's table


def measure(
    one: PublishedSet, engine: str, folder: Path, bundles: Path, made: dict[tuple[str, str], str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one set and engine; ``made`` keeps bundles by the set they learned from."""
    parts = parts_of(folder)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = parts.get("train") or parts_of(folder.with_name("brand-safety-hate-davidson"))["train"]
        learned = next(s for s in load_pack(one.task.name).sets if s.name == source.parent.name)
        if (learned.name, engine) not in made:
            made[learned.name, engine] = ENGINES[engine](learned, cases_of(learned, source, scratch), bundles, scratch)
        digest = made[learned.name, engine]
        data = _sample(parts["dev"], scratch)
        train = parts.get("train") if engine == "additive" else None
        asked = LabelledRun(bundles, digest, data, train=train, rounds=200, gateway_cases=100)
        read, _ = as_published(one.task.name, asked, scratch)
        report = run_labelled(read)
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
            "low": _rounded(ours["low"]),
            "high": _rounded(ours["high"]),
            "control": None if control is None else _rounded(control["value"]),
            "published": one.published.get(metric),
            "n": report["data"]["cases"],
            "bundle": digest,
            "worker_ms": {name: round(value, 3) for name, value in report["worker"]["latency_ms"].items()},
            "gateway_ms": {name: round(value, 3) for name, value in report["gateway"]["latency_ms"].items()},
        }


def _rounded(value: float | None) -> float | None:
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
    engines = [name for name in TITLES if any(r["engine"] == name for r in rows)]
    titles = [TITLES[name] for name in engines]
    heads = ("specialist", "set", "metric", *titles, "classical elsewhere", "n", "p50, p99 of one")
    table = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    keys = dict.fromkeys((r["specialist"], r["set"], r["metric"]) for r in rows)
    for specialist, name, metric in keys:
        found = {r["engine"]: r for r in rows if (r["specialist"], r["set"], r["metric"]) == (specialist, name, metric)}
        any_row = next(iter(found.values()))
        shown = [_cell(found.get(name)) for name in engines]
        best = max(found.values(), key=lambda r: r["ours"])["worker_ms"]
        cells = [specialist, name, metric, *shown, _plain(any_row["published"])]
        table.append(
            "| " + " | ".join([*cells, f"{any_row['n']:,}", f"{best['p50']:.2f}, {best['p99']:.2f} ms"]) + " |"
        )
    text = README.read_text("utf-8")
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    README.write_text(before + BEGIN + "\n" + "\n".join(table) + "\n" + END + after, "utf-8")


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ours']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def main() -> None:
    """Measure what is asked for and keep the rest."""
    parser = argparse.ArgumentParser("python -m perf.specialists", description="Specialists on published sets.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where the sets lie")
    parser.add_argument("--bundles", type=Path, default=ROOT / "var" / "results" / "bundles")
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="only these")
    parser.add_argument("--set", action="append", dest="sets", help="only these")
    parser.add_argument("--table", action="store_true", help="only write the README's table again")
    chosen = parser.parse_args()
    load_metrics()
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    made: dict[tuple[str, str], str] = {}
    for pack in FOLDERS if not chosen.table else ():
        for one in load_pack(pack).sets:
            folder = chosen.data / one.name
            if (chosen.sets and one.name not in chosen.sets) or not parts_of(folder):
                continue
            for engine in chosen.engine or ENGINES:
                sys.stdout.write(f"{one.name} {engine}\n")
                sys.stdout.flush()
                found = list(measure(one, engine, folder, chosen.bundles, made))
                key = (pack, one.name, engine)
                rows = [r for r in rows if (r["specialist"], r["set"], r["engine"]) != key] + found
                rows.sort(key=lambda r: (FOLDERS.index(r["specialist"]), r["set"], r["metric"], r["engine"]))
                # After every set: an hour's work should not end with the last one's mistake.
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_table(rows)


if __name__ == "__main__":
    main()
