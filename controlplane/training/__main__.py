"""Train one bundle as a child process: ``python -m controlplane.training --config FILE``."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from controlplane.packs.example import Example
from controlplane.packs.folder import TRAINERS
from controlplane.training.child import Child, ConfigInvalid, config_from_arguments, run_child
from controlplane.training.dataset import DatasetInvalid, fence, read_dataset
from protos.contract.bundle import BundleStore
from protos.contract.digest import DigestMalformed, digest_json, parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, on what, and where to put it."""

    specialist: str
    pack: str
    data: str | None
    trainer: str
    analysers: Mapping[str, str]
    task: TaskSpec
    train_file: Path
    dev_file: Path
    bundles_dir: Path
    seed: int
    epochs: int
    max_seconds: float
    threads: int
    author: str
    parent: str | None
    dataset_digest: str
    suite_digest: str

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read and check a configuration; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, "config")
        parent = read.maybe_text("parent")
        config = cls(
            specialist=read.text("specialist"),
            pack=read.text("pack"),
            data=read.maybe_text("data"),
            trainer=read.text("trainer", "encoder", choices=TRAINERS),
            analysers=read.object("analysers", {}),
            task=TaskSpec.from_json(read.object("task"), "config.task"),
            train_file=Path(read.text("train_file")),
            dev_file=Path(read.text("dev_file")),
            bundles_dir=Path(read.text("bundles_dir")),
            seed=read.integer("seed", 0, 2**31 - 1),
            epochs=read.integer("epochs", 1, 100),
            max_seconds=read.number("max_seconds", 1, 86_400),
            threads=read.integer("threads", 1, 256),
            author=read.text("author"),
            parent=None if parent is None else parse_digest(parent, "config.parent"),
            dataset_digest=parse_digest(read.text("dataset_digest"), "config.dataset_digest"),
            suite_digest=parse_digest(read.text("suite_digest"), "config.suite_digest"),
        )
        read.done()
        if config.specialist != config.task.name:
            raise FieldInvalid(f"config.specialist is {config.specialist!r}, expected the task's {config.task.name!r}")
        return config


def run(value: Any, child: Child) -> dict[str, Any]:
    """Train, export and add a bundle; return what the parent wants to know.

    Raises:
        ConfigInvalid: The configuration or a file it names is wrong.
    """
    started = time.monotonic()
    try:
        config = TrainingConfig.from_json(value)
        dev = read_dataset(config.dev_file, config.task.labels)
        given = read_dataset(config.train_file, config.task.labels)
    except (FieldInvalid, DigestMalformed, DatasetInvalid) as error:
        raise ConfigInvalid(str(error)) from error
    examples, removed = fence(given, dev)
    if not examples:
        raise ConfigInvalid(f"{config.train_file} holds only texts of {config.dev_file}, expected others")
    child.progress(0.0, f"{len(examples)} examples, {removed} removed by the fence")

    recipe = {"pack": config.pack, "seed": config.seed, "epochs": config.epochs, "trainer": config.trainer}
    lineage = {
        "author": config.author,
        "parent": config.parent,
        "dataset": config.dataset_digest,
        "suite": config.suite_digest,
        "recipe": recipe,
        "configuration": digest_json(recipe),
    }
    if config.trainer == "additive":
        return _additive(config, examples, dev, lineage, started)
    # The learning libraries take seconds to import: a wrong configuration is refused before that.
    from controlplane.training.export import export
    from controlplane.training.lora import train

    result = train(
        config.task,
        examples,
        dev,
        seed=config.seed,
        epochs=config.epochs,
        max_seconds=config.max_seconds,
        threads=config.threads,
        progress=child.progress,
    )
    child.progress(0.92, "exporting")
    digest = export(
        result.model,
        config.task,
        dev,
        store=BundleStore(config.bundles_dir),
        lineage=lineage,
    )
    stride = max(1, -(-len(result.losses) // 200))
    return {
        "bundle_digest": digest,
        "seconds": time.monotonic() - started,
        "steps": result.steps,
        "final_loss": result.losses[-1],
        "dev_macro_f1": result.dev_macro_f1,
        "losses": list(result.losses[::stride]),
    }


def _additive(
    config: TrainingConfig, examples: Sequence[Example], dev: Sequence[Example], lineage: dict[str, Any], started: float
) -> dict[str, Any]:
    """Fit the additive model; its one loss is that of the dev cases."""
    from controlplane.evals.metrics import log_loss, macro_f1
    from controlplane.training.additive import fit
    from protos.contract.additive import Additive

    fitted = fit(config.task, examples, dev, seed=config.seed, analysers=config.analysers)
    logits = Additive.from_json(config.task, fitted.body, "model").logits([example.text for example in dev])
    labels = np.array([config.task.labels.index(example.label) for example in dev])
    loss = float(log_loss(labels, fitted.head.probabilities(logits))[0])
    return {
        "bundle_digest": fitted.export(config.task, BundleStore(config.bundles_dir), lineage),
        "seconds": time.monotonic() - started,
        "steps": 1,
        "final_loss": loss,
        "dev_macro_f1": float(macro_f1(labels, logits.argmax(1), len(config.task.labels))[0]),
        "losses": [loss],
    }


if __name__ == "__main__":
    sys.exit(run_child(run, config_from_arguments("controlplane.training")))
