"""What eight bits cost a trained bundle in accuracy: ``python -m perf.int8 hate``.

An encoder is trained by the project's own training child, put in eight bits by ``interlock engine convert`` (ranges and
calibration head from the part of the training texts that training held out), and both bundles answer the data set's
development part through one real worker: what each gets right, in how many texts they differ, and whether the loss is
within what is allowed. The data is read from a folder beside the project.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.evals.bootstrap import interval, resampled
from controlplane.evals.engine import Engine
from controlplane.evals.metrics import accuracy, macro_f1
from controlplane.training.convert import MAX_ACCURACY_LOSS, ConversionFailed, convert
from controlplane.training.dataset import dataset_digest, read_dataset
from perf.learning import ROOT, STUDIES, Run
from perf.results import FOLDER, commit, machine, versions
from protos.contract.bundle import BundleStore

ROUNDS, CONFIDENCE = 2000, 0.95


def measure(run: Run, trained: str) -> dict[str, Any]:
    """Convert a trained bundle and compare both on the development part."""
    store = BundleStore(run.work / "bundles")
    manifest = store.manifest(trained)
    labels = manifest.task.labels
    held_out = read_dataset(run.work / "dev.jsonl", labels)
    found: dict[str, Any] = {"float_bundle": trained, "held_out": {"rows": len(held_out), "is_allowed": False}}
    try:
        made = convert(store, trained, held_out, "int8", "perf", lambda share, word: print(word, file=sys.stderr))
    except ConversionFailed as error:
        found["held_out"]["refused"] = str(error)
        return found
    found["held_out"] |= {"float": made.accuracy_before, "int8": made.accuracy, "is_allowed": True}
    dev = run.rows("dev")
    truth = np.array([labels.index(example.label) for example in dev])
    with Engine(store.root) as worker:
        rows = {name: _answers(worker, digest, dev) for name, digest in (("float", trained), ("int8", made.digest))}
    guesses = {name: row.argmax(1) for name, row in rows.items()}
    lost = (guesses["float"] == truth).astype(float) - (guesses["int8"] == truth)
    bounds = interval(resampled(len(dev), ROUNDS, 0, lambda weights: weights @ lost / len(dev)), CONFIDENCE)
    loss = float(lost.mean())
    found["int8_bundle"] = made.digest
    found["dev"] = {
        "rows": len(dev),
        "digest": dataset_digest(dev),
        "accuracy": {name: float(accuracy(truth, guess)[0]) for name, guess in guesses.items()},
        "macro_f1": {name: float(macro_f1(truth, guess, len(labels))[0]) for name, guess in guesses.items()},
        "accuracy_lost": loss,
        "accuracy_lost_interval": [bounds.low, bounds.high],
        "answers_that_differ": int((guesses["float"] != guesses["int8"]).sum()),
        "largest_difference_of_a_probability": float(np.abs(rows["float"] - rows["int8"]).max()),
        "mean_difference_of_a_probability": float(np.abs(rows["float"] - rows["int8"]).mean()),
    }
    found["is_within_the_limit"] = loss <= MAX_ACCURACY_LOSS
    return found


def _answers(worker: Engine, digest: str, dev: Sequence[Any]) -> NDArray[np.float64]:
    worker.load(digest)
    return worker.score(digest, [example.text for example in dev]).probabilities


def main(arguments: Sequence[str] | None = None) -> int:
    """Train where there is nothing yet, measure and record; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.int8", description=__doc__, allow_abbrev=False)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of data sets")
    parser.add_argument("--work", type=Path, help="where the trained bundle is kept, and found again")
    parser.add_argument("--steps", type=int, default=900, help="steps of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER / "encoder", help="folder of results")
    chosen = parser.parse_args(arguments)
    study = STUDIES[chosen.study]
    recipe = {**study.recipe, "max_steps": chosen.steps, "checks": 2}
    with tempfile.TemporaryDirectory(prefix="interlock-int8-") as scratch:
        work = chosen.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        run = Run(replace(study, recipe=recipe), chosen.data, work, 1)
        kept = work / "trained.json"
        if not kept.is_file():
            kept.write_text(json.dumps(run.train(chosen.seed)))
        trained = json.loads(kept.read_text())
        result = {
            "what": f"int8 against the float graph, {study.folder}, a MiniLM encoder of {trained['steps']} steps",
            "command": f"python -m perf.int8 {chosen.study} --steps {chosen.steps} --seed {chosen.seed}",
            **measure(run, trained["bundle_digest"]),
            "limit": MAX_ACCURACY_LOSS,
            "machine": machine(),
            "versions": versions(),
            "commit": commit(),
        }
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"int8-{chosen.study}-{datetime.now():%Y-%m-%d}-{result['commit']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result.get(key) for key in ("held_out", "dev", "is_within_the_limit")}, indent=2))
    print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
