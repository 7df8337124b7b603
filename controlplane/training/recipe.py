"""How an adapter is trained: every number that decides the result, and nothing that does not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from protos.contract.fields import Reader

PACKAGED = "minilm"  # the base model that is installed with the trainer
CLASS_WEIGHTS = ("none", "sqrt", "balanced")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe. The same recipe on the same data and machine gives the same bundle, byte for byte.

    Attributes:
        rank: Of the LoRA matrices on every linear layer; their scale is 2 (alpha is twice the rank).
        rate: Peak learning rate of the adapter; LoRA starts at zero and takes more than full fine-tuning would.
        head_rate: The classifier's rate, as a multiple of ``rate``.
        epochs: Passes over the data; ``max_steps`` ends earlier, 0 for no such limit.
        class_weights: How much a rare label counts: "none", by the root of its rarity, or fully "balanced".
        cost_weight: Share of the loss that is the expected cost of the decisions instead of the log loss, 0 to 1.
        checks: Looks at the development part per epoch, fewer where they would take more than a tenth of the work; the
            weights of the best one are kept.
        patience: Looks without a better one after which training ends early; 0 never ends early.
        threads: CPU threads; sums are taken in another order with another number, so it is part of the recipe.
    """

    rank: int = 16
    rate: float = 1e-3
    head_rate: float = 3.0
    dropout: float = 0.05
    weight_decay: float = 0.01
    batch: int = 16
    epochs: int = 2
    max_steps: int = 0
    warm_up: float = 0.1
    class_weights: str = "sqrt"
    cost_weight: float = 0.0
    checks: int = 4
    patience: int = 4
    seed: int = 0
    threads: int = 2

    @classmethod
    def from_json(cls, value: Any, where: str = "recipe") -> Self:
        """Read a recipe; what is left out keeps its default. Raises FieldInvalid."""
        read = Reader(value, where)
        usual = cls()
        recipe = cls(
            rank=read.integer("rank", 1, 256, usual.rank),
            rate=read.number("rate", 1e-6, 1.0, usual.rate),
            head_rate=read.number("head_rate", 0.01, 100, usual.head_rate),
            dropout=read.number("dropout", 0, 0.9, usual.dropout),
            weight_decay=read.number("weight_decay", 0, 1, usual.weight_decay),
            batch=read.integer("batch", 1, 1024, usual.batch),
            epochs=read.integer("epochs", 1, 100, usual.epochs),
            max_steps=read.integer("max_steps", 0, 10_000_000, usual.max_steps),
            warm_up=read.number("warm_up", 0, 0.9, usual.warm_up),
            class_weights=read.text("class_weights", usual.class_weights, choices=CLASS_WEIGHTS),
            cost_weight=read.number("cost_weight", 0, 1, usual.cost_weight),
            checks=read.integer("checks", 1, 1000, usual.checks),
            patience=read.integer("patience", 0, 1000, usual.patience),
            seed=read.integer("seed", 0, 2**31 - 1, usual.seed),
            threads=read.integer("threads", 1, 256, usual.threads),
        )
        read.done()
        return recipe

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return asdict(self)

    def but(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return this recipe with some numbers changed, checked again; raises FieldInvalid."""
        return Recipe.from_json({**self.to_json(), **changes})

    def steps(self, examples: int) -> int:
        """Return how many steps a training on so many examples takes at most."""
        whole = self.epochs * -(-examples // self.batch)
        return min(whole, self.max_steps) if self.max_steps else whole


def short(recipe: Recipe, steps: int) -> Recipe:
    """Return a trial of a recipe: as many steps, looked at once."""
    return replace(recipe, max_steps=steps, checks=1, patience=0)
