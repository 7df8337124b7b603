"""The brand-safety pack: its task and suite from TOML, its texts from scenarios."""

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

from controlplane.evals.suite import Suite, load_suite
from controlplane.packs.brand_safety.scenarios import draw
from controlplane.packs.example import Example
from controlplane.training.dataset import text_key
from protos.contract.task import TaskSpec

_HERE = Path(__file__).parent
_HELD_OUT_SIXTEENTHS = "0123"  # first hex digit of a text's key: a quarter of all texts is never trained on


def _is_held_out(text: str) -> bool:
    return text_key(text)[0] in _HELD_OUT_SIXTEENTHS


class BrandSafetyPack:
    """Made-up page titles, snippets and comments, with a wave that can be turned on."""

    def __init__(self) -> None:
        self.task = TaskSpec.from_json(tomllib.loads((_HERE / "task.toml").read_text("utf-8")))
        self.suite: Suite = load_suite(_HERE / "suite.toml")

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw steady examples to train on."""
        return self._distinct(n, f"train/{seed}", wave=False, held_out=False)

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw steady examples that are never trained on."""
        return self._distinct(n, f"held/{seed}", wave=False, held_out=True)

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave to train on."""
        return self._distinct(n, f"wave/{seed}", wave=True, held_out=False)

    def held_out_shifted(self, n: int, seed: int) -> list[Example]:
        """Draw examples of the wave that are never trained on."""
        return self._distinct(n, f"held-wave/{seed}", wave=True, held_out=True)

    def stream(self, seed: int, shift: float) -> Iterator[Example]:
        """Give live traffic for ever; repeats happen, as they do in traffic."""
        if not 0 <= shift <= 1:
            raise ValueError(f"shift is {shift}, expected 0 to 1")
        rng = random.Random(f"live/{seed}")  # noqa: S311 - scenarios, not secrets
        while True:
            yield _one(rng, wave=rng.random() < shift, held_out=False)

    def _distinct(self, n: int, seed: str, *, wave: bool, held_out: bool) -> list[Example]:
        rng = random.Random(seed)  # noqa: S311 - scenarios, not secrets
        seen: set[str] = set()
        examples: list[Example] = []
        while len(examples) < n:
            example = _one(rng, wave=wave, held_out=held_out)
            key = text_key(example.text)
            if key not in seen:
                seen.add(key)
                examples.append(example)
        return examples


def _one(rng: random.Random, *, wave: bool, held_out: bool) -> Example:
    while True:
        clean, example = draw(rng, wave=wave)
        # Both forms must fall on the same side: a typo must not carry a held-out sentence into training.
        if _is_held_out(clean) == held_out == _is_held_out(example.text):
            return example
