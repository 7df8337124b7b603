"""Train on real labelled texts as a deployment would, and measure the bundles: ``python -m perf.learning``.

Every figure comes from the product's own commands: the training child (``python -m controlplane.training``) makes a
bundle, and ``interlock eval run`` scores it through a real worker and a real gateway, the classical control beside it.
The data sets are read from a folder beside the project and are no part of it.
"""

import argparse
import gzip
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.packs.example import Example
from controlplane.training import parent
from controlplane.training.dataset import text_key, write_dataset
from controlplane.training.recipe import Recipe
from perf.results import commit
from protos.contract.task import TaskSpec

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "perf" / "results" / "learning.json"
DEV_SHARE, MOST_DEV = 0.06, 900  # of the training rows: what training looks at to end early
ZERO = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Study:
    """One data set, how to train on it, and what it has to reach."""

    name: str
    folder: str
    text: str
    label: str
    recipe: dict[str, Any]
    targets: dict[str, float]
    max_tokens: int = 64
    also: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # other sets: folder, file, options of `eval run`


STUDIES = {
    "hate": Study(
        name="hate",
        folder="brand-safety-hate-davidson",
        text="text",
        label="label",
        recipe={"epochs": 2, "checks": 3},
        targets={"weighted_f1": 0.905, "macro_f1": 0.75},
        also=(
            (
                "brand-safety-hatecheck",
                "dev.jsonl.gz",
                ("--group", "hateful=hate,offensive", "--group", "non-hateful=neither", "--slice", "functionality"),
            ),
        ),
    ),
    "topics": Study(
        name="topics",
        folder="brand-safety-topics-huffpost",
        text="headline",
        label="topic_merged",
        recipe={"epochs": 2, "checks": 2, "class_weights": "none"},  # judged by accuracy: every row counts the same
        targets={"accuracy": 0.548},
        max_tokens=48,
    ),
}


@dataclass
class Run:
    """Where one study's files are."""

    study: Study
    data: Path
    work: Path
    threads: int
    report: dict[str, Any] = field(default_factory=dict)

    def rows(self, part: str) -> list[Example]:
        """Read one part of the data set."""
        with gzip.open(self.data / self.study.folder / f"{part}.jsonl.gz", "rt") as file:
            return [Example(row[self.study.text], str(row[self.study.label])) for row in map(json.loads, file)]

    def task(self, labels: list[str], weights: Mapping[str, float]) -> TaskSpec:
        """Describe the specialist: labels are decisions, and to miss one costs its weight."""
        return TaskSpec.from_json(
            {
                "name": self.study.name,
                "description": f"Labels of {self.study.folder}.",
                "fields": [{"name": "text", "kind": "text", "required": True, "capture": True}],
                "labels": labels,
                "decisions": labels,
                "cost": [[0.0 if a == b else weights[a] for b in labels] for a in labels],
                "score_label": labels[-1],
                "fallback_decision": labels[0],
                "fallback_score": 0.0,
                "max_tokens": self.study.max_tokens,
                "max_input_bytes": 8192,
                "deadline_us": 100_000,
                "reserve_us": 3_000,
                "capture_bp": 0,
            }
        )

    def train(self, seed: int) -> dict[str, Any]:
        """Run the training child; return what it reported."""
        rows = self.rows("train")
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.label] = counts.get(row.label, 0) + 1
        labels = sorted(counts, key=lambda label: (-counts[label], label))  # the rarest is scored
        held = [row for row in rows if int(text_key(row.text)[:8], 16) < DEV_SHARE * 2**32][:MOST_DEV]
        texts = {row.text for row in held}
        train = [row for row in rows if row.text not in texts]
        digest = write_dataset(self.work / "train.jsonl", train)
        write_dataset(self.work / "dev.jsonl", held)
        config = {
            "specialist": self.study.name,
            "pack": self.study.folder,
            "data": None,
            "task": self.task(labels, self._weights(counts)).to_json(),
            "train_file": str(self.work / "train.jsonl"),
            "dev_file": str(self.work / "dev.jsonl"),
            "bundles_dir": str(self.work / "bundles"),
            "recipe": {**self.study.recipe, "seed": seed, "threads": self.threads},
            "checkpoint_dir": str(self.work / "checkpoint"),
            "max_seconds": 7200,
            "author": "perf",
            "parent": None,
            "dataset_digest": digest,
            "suite_digest": ZERO,
        }
        return parent.train(
            config, self.work, lambda share, said: print(f"{self.study.name}: {share:.0%} {said}", flush=True)
        )

    def _weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return what missing each label costs: what training weighs it by, the rarest one 1."""
        if self.study.recipe.get("class_weights", Recipe().class_weights) == "none":
            return dict.fromkeys(counts, 1.0)
        return {label: round(math.sqrt(min(counts.values()) / count), 2) for label, count in counts.items()}

    def measure(self, bundle: str, folder: str, file: str, options: tuple[str, ...]) -> dict[str, Any]:
        """Run ``interlock eval run`` on one file."""
        command = [sys.executable, "-c", "from controlplane.cli.app import main; main()"]
        command += ["eval", "run", self.study.name, "--json"]
        command += [
            "--bundle",
            bundle,
            "--bundles",
            str(self.work / "bundles"),
            "--data",
            str(self.data / folder / file),
        ]
        command += [*options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(f"evaluation failed: {done.stdout}")
        found: dict[str, Any] = json.loads(done.stdout)
        found["data"]["file"] = f"{folder}/{file}"  # wherever the data folder is on this machine
        return found


def study(run: Run, seed: int) -> dict[str, Any]:
    """Train and measure one study."""
    own = run.study
    cpu = os.times()
    trained = run.train(seed)
    used = os.times()
    columns = ("--field", f"text={own.text}", "--label", own.label)
    train_file = str(run.data / own.folder / "train.jsonl.gz")
    found = run.measure(trained["bundle_digest"], own.folder, "dev.jsonl.gz", (*columns, "--train", train_file))
    models = found["models"]
    return {
        "data": own.folder,
        "train_digest": hashlib.sha256((run.work / "train.jsonl").read_bytes()).hexdigest(),
        "targets": own.targets,
        "reached": {name: models["bundle"][name]["value"] >= least for name, least in own.targets.items()},
        "training": {k: v for k, v in trained.items() if k not in ("losses", "provenance")},
        "training_cpu_seconds": used.children_user + used.children_system - cpu.children_user - cpu.children_system,
        "losses": trained["losses"],
        "provenance": trained["provenance"],
        "dev": {key: found[key] for key in ("data", "models", "differences", "worker", "gateway")},
        "also": {
            folder: _brief(run.measure(trained["bundle_digest"], folder, file, ("--gateway-cases", "0", *options)))
            for folder, file, options in own.also
        },
    }


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("data", "models", "slices")}


def main() -> None:
    """Run studies and write what they found."""
    parser = argparse.ArgumentParser("python -m perf.learning", description=__doc__)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="which; all without one")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of data sets")
    parser.add_argument("--work", type=Path, help="where bundles are kept; a folder that is thrown away without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interlock-learning-") as scratch:
        for name in chosen.studies or STUDIES:
            work = (chosen.work or Path(scratch)) / name
            work.mkdir(parents=True, exist_ok=True)
            measured, began = commit(), time.monotonic()
            found = study(Run(STUDIES[name], chosen.data, work, chosen.threads), chosen.seed)
            found |= {
                "command": f"python -m perf.learning {name} --seed {chosen.seed} --threads {chosen.threads}",
                "seconds": time.monotonic() - began,
                "commit": measured,
                "machine": platform.machine(),
            }
            whole = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
            whole[name] = found
            chosen.out.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
            print(json.dumps({k: found[k] for k in ("targets", "reached")}, indent=1))


if __name__ == "__main__":
    main()
