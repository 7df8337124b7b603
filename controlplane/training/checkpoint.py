"""Where a training stands, on disk: weights and optimiser as safetensors, the rest as JSON, both or neither.

Batches and dropout are drawn afresh from the seed and the step, so no generator's state has to be kept.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

_STATE, _TENSORS = "state.json", "tensors.safetensors"
_SIDES = ("exp_avg", "exp_avg_sq", "step")


@dataclass(slots=True)
class Progress:
    """What a training has done so far.

    Attributes:
        step: Steps done.
        losses: Training loss of each.
        looks: One look at the development part each: step, loss, accuracy and macro-F1 there.
        best_loss: Least loss seen on the development part; the best weights are of that look.
        since_best: Looks since then.
        seconds: Time spent in all attempts.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)
    best_loss: float | None = None
    since_best: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The last checkpoint of one training; ``key`` names its configuration, and another's checkpoint is not used."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self._key = key

    def save(
        self,
        progress: Progress,
        weights: Mapping[str, torch.Tensor],
        best: Mapping[str, torch.Tensor],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """Replace the last checkpoint; a kill in between leaves the old one or the new one."""
        if self._folder is None:
            return
        tensors = {f"weights/{name}": value.detach().contiguous() for name, value in weights.items()}
        tensors |= {f"best/{name}": value.contiguous() for name, value in best.items()}
        for i, parameter in enumerate(_parameters(optimiser)):
            state = optimiser.state.get(parameter, {})
            tensors |= {f"optimiser/{i}/{side}": state[side].contiguous() for side in _SIDES if side in state}
        # An attempt that lost its lease may still be writing: each process has a folder of its own until it is whole.
        staging = self._folder.with_name(f"{self._folder.name}.new-{os.getpid()}")
        old = self._folder.with_name(self._folder.name + ".old")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file(tensors, staging / _TENSORS)
        (staging / _STATE).write_text(json.dumps({"key": self._key, **asdict(progress)}))
        for path in (staging / _TENSORS, staging / _STATE):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            os.replace(self._folder, old)
        os.replace(staging, self._folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(
        self, weights: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer
    ) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """Put the last checkpoint into weights and optimiser and return where it stood; None without a usable one."""
        for folder in self._candidates():
            try:
                said: dict[str, Any] = json.loads((folder / _STATE).read_text())
                if said.pop("key") != self._key:
                    continue
                progress = Progress(**said)
                tensors = load_file(folder / _TENSORS)
                best = {n.removeprefix("best/"): t for n, t in tensors.items() if n.startswith("best/")}
                found = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
            except (OSError, ValueError, TypeError, KeyError, SafetensorError):
                continue  # half-written or of an older kind: training starts over
            if set(found) != set(weights):
                continue
            with torch.no_grad():
                for name, value in weights.items():
                    value.copy_(found[name])
            for i, parameter in enumerate(_parameters(optimiser)):
                kept = {side: tensors[f"optimiser/{i}/{side}"] for side in _SIDES if f"optimiser/{i}/{side}" in tensors}
                if kept:
                    optimiser.state[parameter] = kept
            return progress, best
        return None

    def remove(self) -> None:
        """Forget the checkpoint and what killed attempts left of theirs, once the training has a result."""
        if self._folder is not None:
            for folder in self._folder.parent.glob(self._folder.name + "*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _candidates(self) -> list[Path]:
        if self._folder is None:
            return []
        # A kill between the two renames leaves only the old one.
        return [self._folder, self._folder.with_name(self._folder.name + ".old")]


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
