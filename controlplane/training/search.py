"""A small search over recipes: short trials, half of them going on for twice as long, until one is left.

Source: successive halving (Jamieson and Talwalkar, 2016). The budget is in steps and not in seconds, so that the
recipe that wins does not depend on how busy the machine was.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from controlplane.training.recipe import Recipe, short
from protos.contract.fields import FieldInvalid, Reader

LEAST_STEPS = 10
MOST_TRIALS = 64


@dataclass(frozen=True, slots=True)
class Search:
    """What to try and how long.

    Attributes:
        budget_steps: Steps of all trials together, at most.
    """

    ranks: tuple[int, ...]
    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    budget_steps: int

    @classmethod
    def from_json(cls, value: Any, where: str = "search") -> Self:
        """Read a search; raises FieldInvalid."""
        read = Reader(value, where)
        search = cls(
            ranks=tuple(read.items("ranks", [16])),
            rates=tuple(read.items("rates", [1e-3])),
            epochs=tuple(read.items("epochs", [2])),
            budget_steps=read.integer("budget_steps", LEAST_STEPS, 10_000_000),
        )
        read.done()
        trials = search.recipes(Recipe())  # every value is checked as a recipe's would be
        if not 1 <= len(trials) <= MOST_TRIALS:
            raise FieldInvalid(f"{where} has {len(trials)} combinations, expected 1 to {MOST_TRIALS}")
        if search.budget_steps < LEAST_STEPS * len(trials):
            raise FieldInvalid(
                f"{where}.budget_steps is {search.budget_steps}, expected {LEAST_STEPS} for each of {len(trials)}"
            )
        return search

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "ranks": list(self.ranks),
            "rates": list(self.rates),
            "epochs": list(self.epochs),
            "budget_steps": self.budget_steps,
        }

    def recipes(self, usual: Recipe) -> list[Recipe]:
        """Return every combination on top of a recipe."""
        return [
            usual.but({"rank": rank, "rate": rate, "epochs": epochs})
            for rank, rate, epochs in itertools.product(self.ranks, self.rates, self.epochs)
        ]


@dataclass(frozen=True, slots=True)
class Trial:
    """One short training: its recipe, how long it was, and the development loss it came to."""

    recipe: Recipe
    steps: int
    dev_loss: float

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded of it."""
        named = {"rank": self.recipe.rank, "rate": self.recipe.rate, "epochs": self.recipe.epochs}
        return {**named, "steps": self.steps, "dev_loss": self.dev_loss}


def search(
    asked: Search, usual: Recipe, run: Callable[[Recipe], float], tell: Callable[[str], None]
) -> tuple[Recipe, list[Trial]]:
    """Return the best recipe and every trial. ``run`` trains a short recipe and returns its development loss.

    Trials of different epochs share their first steps but for the learning rate's schedule, so a trial is
    always a whole small schedule.
    """
    left: Sequence[Recipe] = asked.recipes(usual)
    rungs = max(1, (len(left) - 1).bit_length())
    trials: list[Trial] = []
    for rung in range(rungs):
        steps = max(LEAST_STEPS, asked.budget_steps // rungs // len(left))
        losses = []
        for i, recipe in enumerate(left):
            tell(
                f"trial {i + 1} of {len(left)} in round {rung + 1} of {rungs}: rank {recipe.rank}, rate {recipe.rate:g}"
            )
            losses.append(run(short(recipe, steps)))
            trials.append(Trial(recipe, steps, losses[-1]))
        ranked = sorted(range(len(left)), key=lambda i: (losses[i], i))
        left = [left[i] for i in ranked[: max(1, len(left) // 2)]]
    return left[0], trials
