"""Train one bundle as a child process: ``python -m controlplane.training --config FILE``."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from controlplane.packs.example import Example
from controlplane.packs.folder import TRAINERS
from controlplane.training.child import Child, ConfigInvalid, config_from_arguments, run_child
from controlplane.training.dataset import DatasetInvalid, fence, read_dataset
from controlplane.training.limits import is_out_of_memory, limit
from controlplane.training.recipe import PACKAGED, Recipe
from controlplane.training.search import Search, Trial, search
from protos.contract.bundle import BundleStore
from protos.contract.digest import DigestMalformed, digest_json, parse_digest
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

if TYPE_CHECKING:
    from controlplane.training.fit import Fitted

_SEARCHING, _TRAINING = 0.3, 0.9  # where the bar stands at the end of each


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, on what, and where to put it.

    Attributes:
        base: ``minilm``, or a Hugging Face directory of an encoder or decoder.
        verbalizers: What a decoder writes for each label.
        is_balanced: Whether the additive model counts all labels the same, however rare.
        dev_file: What the calibration is fitted on and a language model looks at while it learns; None: no calibration.
        budget_tokens: The most that a language model reads while it learns, 0 for all examples as often as the recipe
            says: it then learns from the first examples that fit, and reads them the more often the fewer there are.
        search: Short trials that choose rank, rate and epochs first; None: the recipe as it is.
        checkpoint_dir: Where a killed training goes on from; None: it starts over. One is made every
            ``checkpoint_every`` steps.
        memory_mb: Memory the process may write to, 0 for no limit.
        dataset_digest: The artifact that holds the rows; ``data_manifest`` the one that says what they are made of.
        suite_digest: The suite that was locked before.
    """

    specialist: str
    pack: str
    data: str | None
    trainer: str
    analysers: Mapping[str, str]
    is_balanced: bool
    statements: Mapping[str, str]
    task: TaskSpec
    train_file: Path
    dev_file: Path | None
    bundles_dir: Path
    base: str
    verbalizers: Mapping[str, str]
    recipe: Recipe
    budget_tokens: int
    search: Search | None
    checkpoint_dir: Path | None
    checkpoint_every: int
    max_seconds: float
    memory_mb: int
    author: str
    parent: str | None
    dataset_digest: str
    data_manifest: str | None
    suite_digest: str

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read and check a configuration; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, "config")
        parent, checkpoint_dir = read.maybe_text("parent"), read.maybe_text("checkpoint_dir")
        dev_file = read.maybe_text("dev_file")
        sought = read.object("search", {})
        config = cls(
            specialist=read.text("specialist"),
            pack=read.text("pack"),
            data=read.maybe_text("data"),
            trainer=read.text("trainer", "encoder", choices=TRAINERS),
            analysers=read.object("analysers", {}),
            is_balanced=read.flag("is_balanced", False),
            statements=read.object("statements", {}),
            task=TaskSpec.from_json(read.object("task"), "config.task"),
            train_file=Path(read.text("train_file")),
            dev_file=None if dev_file is None else Path(dev_file),
            bundles_dir=Path(read.text("bundles_dir")),
            base=read.text("base", "minilm"),
            verbalizers=read.object("verbalizers", {}),
            recipe=Recipe.from_json(read.object("recipe", {}), "config.recipe"),
            budget_tokens=read.integer("budget_tokens", 0, 10**12, 0),
            search=Search.from_json(sought, "config.search") if sought else None,
            checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
            checkpoint_every=read.integer("checkpoint_every", 1, 1_000_000, 100),
            max_seconds=read.number("max_seconds", 1, 86_400),
            memory_mb=read.integer("memory_mb", 0, 1 << 24, 0),
            author=read.text("author"),
            parent=None if parent is None else parse_digest(parent, "config.parent"),
            dataset_digest=parse_digest(read.text("dataset_digest"), "config.dataset_digest"),
            data_manifest=read.maybe_text("data_manifest"),
            suite_digest=parse_digest(read.text("suite_digest"), "config.suite_digest"),
        )
        read.done()
        if config.specialist != config.task.name:
            raise FieldInvalid(f"config.specialist is {config.specialist!r}, expected the task's {config.task.name!r}")
        if config.trainer == "encoder" and config.dev_file is None:
            raise FieldInvalid(
                "config.dev_file is None, expected a file: a language model is looked at while it learns"
            )
        return config

    def lineage(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Say in the bundle where it comes from."""
        return {
            "author": self.author,
            "parent": self.parent,
            "dataset": self.dataset_digest,
            **({"data_manifest": self.data_manifest} if self.data_manifest else {}),
            "suite": self.suite_digest,
            "recipe": dict(recipe),
            "configuration": digest_json(dict(recipe)),
        }

    def key(self, base_digest: str, examples: list[Example], dev: list[Example]) -> str:
        """Name everything that decides the result, so that a checkpoint of anything else is not gone on from."""
        rows = [[[e.text, e.label] for e in part] for part in (examples, dev)]
        return digest_json(
            {
                "task": self.task.to_json(),
                "rows": digest_json(rows),
                "base": base_digest,
                "verbalizers": dict(self.verbalizers),
                "recipe": self.recipe.to_json(),
                "search": self.search.to_json() if self.search else None,
            }
        )


def run(value: Any, child: Child) -> dict[str, Any]:
    """Train, export and add a bundle; return what the parent wants to know.

    Raises:
        ConfigInvalid: The configuration or a file it names is wrong, or a limit was reached.
    """
    started = time.monotonic()
    try:
        config = TrainingConfig.from_json(value)
        dev = [] if config.dev_file is None else read_dataset(config.dev_file, config.task.labels)
        given = read_dataset(config.train_file, config.task.labels)
    except (FieldInvalid, DigestMalformed, DatasetInvalid) as error:
        raise ConfigInvalid(str(error)) from error
    examples, removed = fence(given, dev)
    if not examples:
        raise ConfigInvalid(f"{config.train_file} holds only texts of {config.dev_file}, expected others")
    if config.base != PACKAGED and not (Path(config.base) / "config.json").is_file():
        raise ConfigInvalid(f"config.base is {config.base!r}, expected {PACKAGED!r} or a folder with config.json")
    if config.trainer == "encoder" and any(example.weight != 1 for example in examples):
        raise ConfigInvalid(f"{config.train_file} has weights, expected none: a language model counts every case once")
    if any(example.weight != 1 for example in dev):
        dev = []  # a calibration counts every case once: what the rare ones stand for would be lost
    child.progress(0.0, f"{len(examples)} examples, {removed} removed by the fence")
    # The parent's clock is the limit; this one ends a child whose parent is gone and whose loop is stuck.
    limit(config.memory_mb, 2 * config.max_seconds * max(1, config.recipe.threads))
    try:
        if config.trainer != "encoder":
            return _classical(config, examples, dev, started)
        return _train(config, examples, dev, child, started)
    except (MemoryError, RuntimeError, OSError) as error:
        if config.memory_mb and is_out_of_memory(error):
            raise ConfigInvalid(f"training needs more than memory_mb {config.memory_mb}: {error}") from error
        raise


def _train(
    config: TrainingConfig, examples: list[Example], dev: list[Example], child: Child, started: float
) -> dict[str, Any]:
    # The learning libraries take seconds to import: a wrong configuration is refused before that.
    from controlplane.training.budget import affordable
    from controlplane.training.checkpoint import Checkpoints
    from controlplane.training.export import export
    from controlplane.training.fit import fit
    from controlplane.training.lora import open_base
    from controlplane.training.provenance import provenance

    base = open_base(config.base)
    if config.budget_tokens:
        recipe, examples, dev = affordable(base, config.task, config.recipe, examples, dev, config.budget_tokens)
        config = replace(config, recipe=recipe)
        child.progress(0.0, f"{len(examples)} examples, {recipe.epochs} times")
    key = config.key(base.digest, examples, dev)
    training = partial(
        fit, base, config.task, examples, dev, max_seconds=config.max_seconds, verbalizers=config.verbalizers
    )
    recipe, trials = config.recipe, list[Trial]()
    if config.search is not None:
        recipe, trials = _searched(config.search, recipe, training, child)
    low = _SEARCHING if trials else 0.0
    result = training(
        recipe,
        tell=lambda done, said: child.progress(low + (_TRAINING - low) * done, said),
        checkpoint=config.checkpoint_dir,
        checkpoint_every=config.checkpoint_every,
        key=key,
    )
    child.progress(_TRAINING, "exporting")
    named = {"pack": config.pack, "trainer": config.trainer, "base": base.name, **recipe.to_json()}
    if config.search is not None:
        named["search"] = config.search.to_json()
    digest = export(
        result.model,
        base,
        config.task,
        dev,
        verbalizers=config.verbalizers,
        store=BundleStore(config.bundles_dir),
        lineage=config.lineage(named),
    )
    Checkpoints(config.checkpoint_dir, key).remove()
    return {
        "bundle_digest": digest,
        "seconds": time.monotonic() - started,
        **_told(result),
        "trials": [trial.to_json() for trial in trials],
        "examples": len(examples),
        "provenance": provenance() | {"key": key, "seed": recipe.seed, "dataset": config.dataset_digest},
    }


def _searched(
    asked: Search, recipe: Recipe, training: Callable[..., "Fitted"], child: Child
) -> tuple[Recipe, list[Trial]]:
    """Choose the recipe by short trials; returns it with the trials."""
    done = 0

    def tried(trial: Recipe) -> float:
        nonlocal done
        found = training(trial, tell=lambda *_: None)
        done += found.steps
        child.progress(min(_SEARCHING, _SEARCHING * done / asked.budget_steps), f"trial: {found.dev_loss:.3f}")
        return found.dev_loss

    return search(asked, recipe, tried, lambda said: child.progress(0.0, said))


def _told(result: "Fitted") -> dict[str, Any]:
    """Say how a training went; the loss curve as means of as many steps as leave one that a person can look at."""
    stride = max(1, math.ceil(len(result.losses) / 400))
    return {
        "training_seconds": result.seconds,
        "steps": result.steps,
        "best_step": result.best_step,
        "ended_early": result.ended_early,
        "resumed_at": result.resumed_at,
        "final_loss": result.losses[-1],
        "dev_macro_f1": result.dev_macro_f1,
        "dev_accuracy": result.dev_accuracy,
        "losses": [fmean(result.losses[i : i + stride]) for i in range(0, len(result.losses), stride)],
        "losses_every": stride,
        "looks": [dict(look) for look in result.looks],
    }


def _classical(
    config: TrainingConfig, examples: Sequence[Example], dev: Sequence[Example], started: float
) -> dict[str, Any]:
    """Fit the additive model or the trees; the one loss is that of the dev cases, without any of what was learned."""
    from controlplane.evals.metrics import log_loss, macro_f1
    from controlplane.training import additive, trees
    from controlplane.training.provenance import provenance

    given: dict[str, Any] = {
        "seed": config.recipe.seed,
        "analysers": config.analysers,
        "weights": [example.weight for example in examples],
    }
    try:
        if config.trainer == "trees":
            fitted = trees.fit(config.task, examples, dev, **given)
        else:
            fitted = additive.fit(config.task, examples, dev, is_balanced=config.is_balanced, **given)
    except FieldInvalid as error:
        raise ConfigInvalid(str(error)) from error
    judged = dev or examples
    logits = fitted.model(config.task).logits([example.text for example in judged])
    labels = np.array([config.task.labels.index(example.label) for example in judged])
    recipe = {"pack": config.pack, "trainer": config.trainer, "seed": config.recipe.seed}
    loss = float(log_loss(labels, fitted.head.probabilities(logits))[0])
    return {
        "bundle_digest": fitted.export(
            config.task, BundleStore(config.bundles_dir), config.lineage(recipe), config.statements
        ),
        "seconds": time.monotonic() - started,
        "steps": 1,
        "final_loss": loss,
        "dev_macro_f1": float(macro_f1(labels, logits.argmax(1), len(config.task.labels))[0]),
        "losses": [loss],
        "losses_every": 1,
        "examples": len(examples),
        "provenance": provenance() | {"seed": config.recipe.seed, "dataset": config.dataset_digest},
    }


if __name__ == "__main__":
    sys.exit(run_child(run, config_from_arguments("controlplane.training")))
