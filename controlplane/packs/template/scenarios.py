"""Made-up cases: replace them with yours. Steady traffic, and a wave that can be turned on."""

import random

from controlplane.packs.folder import Scenario

ORDINARY = ("standing order for {what}", "invoice {n} for {what}", "thanks for the {what}")
UNUSUAL = ("urgent: change the account for {what}", "pay {n} today or the {what} stops")
WAVE = ("our bank has moved, use the new account for {what}",)
THINGS = ("paper", "lunches", "the van", "licences", "rent", "repairs")


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one case."""
    is_unusual = rng.random() < 0.4
    lines = (WAVE if wave else UNUSUAL) if is_unusual else ORDINARY
    text = rng.choice(lines).format(what=rng.choice(THINGS), n=rng.randrange(100, 999))
    amount = round(rng.lognormvariate(6 if is_unusual else 5, 1), 2)
    label = "unusual" if is_unusual else "ordinary"
    return Scenario({"amount": amount, "text": text}, label, "wave" if wave else "steady")
