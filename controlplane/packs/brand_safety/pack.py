"""The brand-safety pack: texts whose clean and mistyped forms stay on one side of the fence."""

import random
from pathlib import Path

from controlplane.packs.brand_safety.scenarios import draw
from controlplane.packs.example import Example
from controlplane.packs.folder import FolderPack, Scenario, is_held_out


class BrandSafetyPack(FolderPack):
    """Made-up page titles, snippets and comments, with a wave that can be turned on."""

    def __init__(self) -> None:
        super().__init__(Path(__file__).parent, _scenario)

    def _one(self, rng: random.Random, *, wave: bool, held_out: bool) -> Example:
        while True:
            clean, example = draw(rng, wave=wave)
            # Both forms must fall on the same side: a typo must not carry a held-out sentence into training.
            if is_held_out(clean) == held_out == is_held_out(example.text):
                return example


def _scenario(rng: random.Random, wave: bool) -> Scenario:
    _, example = draw(rng, wave=wave)
    return Scenario({"text": example.text}, example.label, example.slice)


load = BrandSafetyPack
