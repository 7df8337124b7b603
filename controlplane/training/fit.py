"""The training loop: seeded, checkpointed, ended early by a development part, and the same after a kill as without."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from controlplane.evals.metrics import accuracy, macro_f1
from controlplane.packs.example import Example
from controlplane.training.calibration import TEMPERATURES
from controlplane.training.checkpoint import Checkpoints, Progress
from controlplane.training.lora import Base, Model, build, logits_of, to_batch, token_rows
from controlplane.training.recipe import Recipe
from protos.contract.task import TaskSpec

_POOL = 16  # batches sorted by length together: short texts are not padded to long ones
_SOFTNESS = 0.1  # of the cheapest decision, in units of cost, so that expected cost has a slope
_LOOKING = 0.1  # of the work of training that looks at the development part may take
_TELL = 5  # steps between two words to the parent
_TEMPERATURES = TEMPERATURES[::6].tolist()  # as far as calibration goes, in longer steps

Tell = Callable[[float, str], None]


class TrainingFailed(Exception):
    """Training cannot give a usable model; says why."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        losses: Of every step; ``looks`` are the looks at the development part.
        best_step: The step whose weights these are.
        seconds: Over all attempts.
    """

    model: Model
    dev_macro_f1: float
    dev_accuracy: float
    dev_loss: float
    losses: tuple[float, ...]
    looks: tuple[Mapping[str, float], ...]
    steps: int
    best_step: int
    ended_early: bool
    resumed_at: int
    seconds: float


class _Fit:
    """One training under way."""

    def __init__(
        self,
        base: Base,
        task: TaskSpec,
        examples: Sequence[Example],
        dev: Sequence[Example],
        recipe: Recipe,
        model: Model,
    ) -> None:
        self.recipe, self.model = recipe, model
        self.rows = token_rows(base, task, [example.text for example in examples])
        self.dev_rows = token_rows(base, task, [example.text for example in dev])
        self.targets = torch.tensor([task.labels.index(example.label) for example in examples])
        self.dev_targets = torch.tensor([task.labels.index(example.label) for example in dev])
        self.labels = len(task.labels)
        self.cost = torch.tensor(task.cost)
        self.class_weights = _class_weights(self.targets, self.labels, recipe.class_weights)
        self.steps = recipe.steps(len(self.rows))
        self.per_epoch = -(-len(self.rows) // recipe.batch)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        head = [p for name, p in self.trained.items() if name.startswith("head.")]
        adapter = [p for name, p in self.trained.items() if not name.startswith("head.")]
        groups = [{"params": adapter, "scale": 1.0}] + ([{"params": head, "scale": recipe.head_rate}] if head else [])
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
        self.has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # Looks are spread evenly, the last one at the end; a short training has fewer.
        apart = max(1, min(self.per_epoch, self.steps) // recipe.checks, self._least_apart(len(dev)))
        self.looks_at = {self.steps, *range(apart, self.steps - apart // 2, apart)}
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def _least_apart(self, dev: int) -> int:
        """Return how many steps must lie between two looks for looking to stay within its share of the work."""
        # A look takes a forward pass a row, a step about three.
        return math.ceil(dev / (3 * _LOOKING * self.recipe.batch))

    def batch(self, step: int) -> list[int]:
        """Return the examples of a step, by the seed and the step alone."""
        epoch, at = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, _bucketed(self.rows, self.recipe.batch, self.recipe.seed, epoch))
        return self._epoch[1][at]

    def step(self, step: int) -> float:
        """Take one step and return its loss; raises TrainingFailed."""
        batch = self.batch(step)
        # Dropout too depends on the seed and the step alone, so that a resumed training draws what it would have.
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * group["scale"] * self._schedule(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.has_bf16):
            logits = self.model(*to_batch([self.rows[i] for i in batch]))
        loss = self._loss(logits.float(), self.targets[batch])
        if not torch.isfinite(loss):
            raise TrainingFailed(f"the loss is {loss.item()} at step {step}")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def look(self, step: int) -> dict[str, float]:
        """Score the development part; its loss weighs labels as training does."""
        logits = logits_of(self.model, self.dev_rows)
        guess = logits.argmax(1).numpy()
        truth = self.dev_targets.numpy()
        return {
            "step": step,
            "loss": calibrated_loss(logits, lambda softer: self._loss(softer, self.dev_targets)),
            "accuracy": float(accuracy(truth, guess)[0]),
            "macro_f1": float(macro_f1(truth, guess, self.labels)[0]),
        }

    def weights(self) -> dict[str, torch.Tensor]:
        """Copy what is trained."""
        return {name: p.detach().clone() for name, p in self.trained.items()}

    def put(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take weights over."""
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(weights[name])

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(logits, targets, weight=self.class_weights)
        share = self.recipe.cost_weight
        if not share:
            return loss
        # The decision of least expected cost, softened; what it costs is known from the true label.
        expected = logits.softmax(-1) @ self.cost
        decisions = (-expected / _SOFTNESS).softmax(-1)
        paid = (decisions * self.cost[targets]).sum(-1).mean()
        return (1 - share) * loss + share * paid

    def _schedule(self, step: int) -> float:
        warm_up = max(1, int(self.recipe.warm_up * self.steps))
        return min((step + 1) / warm_up, max(0.0, (self.steps - step) / max(1, self.steps - warm_up)))


def calibrated_loss(logits: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return the least loss at any temperature.

    A bundle gets a temperature afterwards (``calibration``), so weights are no worse for being too sure: as it comes,
    the least loss is often that of an early look, before the model is sure of anything (Guo et al., 2017).
    """
    return min(float(loss(logits / temperature)) for temperature in _TEMPERATURES)


def fit(
    base: Base,
    task: TaskSpec,
    examples: Sequence[Example],
    dev: Sequence[Example],
    recipe: Recipe,
    *,
    max_seconds: float,
    tell: Tell,
    verbalizers: Mapping[str, str] = {},  # noqa: B006 - read only
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    key: str = "",
) -> Fitted:
    """Train from the base model; the same arguments on the same machine give the same weights.

    ``max_seconds`` is a limit over all attempts, not a schedule: training that would run past it fails instead of
    giving weights that depend on how busy the machine was.

    Args:
        checkpoint: Folder of the last checkpoint, made every ``checkpoint_every`` steps; ``key`` names what it has to
            be of.
    Raises:
        BaseInvalid: The base model cannot be trained for the task.
        TrainingFailed: Out of time, or the loss stopped being a number.
    """
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    run = _Fit(base, task, examples, dev, recipe, build(base, task, recipe.rank, recipe.dropout, verbalizers))
    checkpoints = Checkpoints(checkpoint, key)
    progress, best = checkpoints.load(run.trained, run.optimiser) or (Progress(), run.weights())
    resumed_at, began, before = progress.step, time.monotonic(), progress.seconds
    ended_early = False
    while progress.step < run.steps and not ended_early:
        progress.losses.append(run.step(progress.step))
        progress.step += 1
        progress.seconds = before + time.monotonic() - began
        if progress.seconds > max_seconds:
            raise TrainingFailed(f"{max_seconds:g} s passed after {progress.step} of {run.steps} steps")
        if progress.step in run.looks_at:
            found = run.look(progress.step)
            progress.looks.append(found)
            if progress.best_loss is None or found["loss"] < progress.best_loss:
                progress.best_loss, progress.since_best, best = found["loss"], 0, run.weights()
            else:
                progress.since_best += 1
            ended_early = 0 < recipe.patience <= progress.since_best
        if progress.step % checkpoint_every == 0 and progress.step < run.steps:
            checkpoints.save(progress, run.trained, best, run.optimiser)
        if progress.step % _TELL == 0 or progress.step == run.steps:
            seen = f", dev macro-F1 {progress.looks[-1]['macro_f1']:.3f}" if progress.looks else ""
            tell(
                progress.step / run.steps,
                f"step {progress.step} of {run.steps}, loss {_recent(progress.losses):.3f}{seen}",
            )
    run.put(best)
    return _fitted(run, progress, resumed_at, ended_early)


def _fitted(run: _Fit, progress: Progress, resumed_at: int, ended_early: bool) -> Fitted:
    best = next(look for look in progress.looks if look["loss"] == progress.best_loss)
    return Fitted(
        model=run.model,
        dev_macro_f1=best["macro_f1"],
        dev_accuracy=best["accuracy"],
        dev_loss=best["loss"],
        losses=tuple(progress.losses),
        looks=tuple(progress.looks),
        steps=progress.step,
        best_step=int(best["step"]),
        ended_early=ended_early,
        resumed_at=resumed_at,
        seconds=progress.seconds,
    )


def _recent(losses: Sequence[float]) -> float:
    last = losses[-20:]
    return sum(last) / len(last)


def _class_weights(targets: torch.Tensor, labels: int, kind: str) -> torch.Tensor:
    counts = torch.bincount(targets, minlength=labels).clamp(min=1).float()
    balanced = counts.sum() / (labels * counts)
    return {"none": torch.ones(labels), "sqrt": balanced.sqrt(), "balanced": balanced}[kind]


def _bucketed(rows: Sequence[Sequence[int]], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Group rows of like length, in random order that depends on seed and epoch only."""
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - shuffling, not secrets
    order = list(range(len(rows)))
    rng.shuffle(order)
    batches = []
    for at in range(0, len(order), _POOL * size):
        pool = sorted(order[at : at + _POOL * size], key=lambda i: len(rows[i]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches
