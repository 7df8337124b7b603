"""How many examples a language model can read in the time that somebody has, and how often."""

from collections.abc import Sequence
from dataclasses import replace

from controlplane.packs.example import Example
from controlplane.training.lora import Base, token_rows
from controlplane.training.recipe import Recipe
from protos.contract.task import TaskSpec

MEASURED = 1000  # examples that the length of all is taken from
LEAST = 1200  # examples: of long ones fewer would be left than a model learns from
MOST_EPOCHS = 4  # new examples teach more than old ones again, so many are read once, and in part
DEV_SHARE = 7  # one dev case for so many examples


def affordable(
    base: Base,
    task: TaskSpec,
    recipe: Recipe,
    examples: Sequence[Example],
    dev: Sequence[Example],
    tokens: int,
) -> tuple[Recipe, list[Example], list[Example]]:
    """Return how often to read as many of the first examples as so many tokens allow, these, and dev cases to suit."""
    rows = token_rows(base, task, [example.text for example in examples[:MEASURED]])
    readings = tokens / (sum(map(len, rows)) / len(rows))
    kept = list(examples[: max(LEAST, int(readings))])
    epochs = max(1, min(MOST_EPOCHS, round(readings / len(kept))))
    return replace(recipe, epochs=epochs), kept, list(dev[: max(1, len(kept) // DEV_SHARE)])
