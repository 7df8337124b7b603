"""Texts whose label a simulated engine can read off them."""

import random

from controlplane.packs.folder import Scenario

STEADY = ("harbour ferry tide", "oven flour butter", "goal keeper match", "bond yield bank")
WAVE = ("moss trail ridge",)


def draw(rng: random.Random, wave: bool) -> Scenario:
    label = rng.choice(("fine", "fine", "foul"))
    words = rng.choice(WAVE if wave else STEADY).split()
    rng.shuffle(words)
    text = f"label:{label} {' '.join(words)} {label} item {rng.randrange(10_000)}"
    return Scenario({"text": text}, label, "wave" if wave else "steady")
