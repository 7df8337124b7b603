"""The figures of README.md: ``python -m controlplane.packs.bid_shading.measure``."""

import random
import sys
from collections.abc import Callable, Sequence

import numpy as np

from controlplane.packs.bid_shading.auction import Auction, draw_auction
from controlplane.packs.bid_shading.buckets import BOUNDS, bound_of
from controlplane.packs.bid_shading.pack import load
from controlplane.packs.bid_shading.scenarios import fields_of
from controlplane.packs.folder import FolderPack, to_input
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos.contract.additive import Additive
from protos.contract.task import render

SEEDS = (1, 2, 3, 4)
AUCTIONS = 4000
Bid = Callable[[Auction], float]


def surplus(cases: Sequence[Auction], bid: Bid) -> float:
    """Return the expected surplus of a way to bid, as a share of all prices."""
    return sum(a.expected_surplus(max(bid(a), a.floor)) for a in cases) / sum(a.price for a in cases)


def constant(share: float) -> Bid:
    """Return bids of one share of the price."""
    return lambda auction: share * auction.price


def shader(pack: FolderPack, fitted: Fitted) -> Bid:
    """Return the bids that a fitted model decides on."""
    model = Additive.from_json(pack.task, fitted.body, "model")

    def bid(auction: Auction) -> float:
        logits = model.logits([render(pack.task, to_input(pack.task, fields_of(auction)))])
        decision = fitted.head.decide(pack.task, fitted.head.probabilities(logits)[0].tolist())
        return bound_of(pack.task.decisions[decision]) * auction.price

    return bid


def main() -> None:
    """Print surplus and regret on steady auctions and on the wave, lowest and highest over the seeds."""
    pack = load()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in SEEDS:
        dev = pack.held_out(200, seed)
        steady = pack.training_set(2500, seed)
        models = {
            "first bundle": shader(pack, fit(pack.task, steady, dev, seed=seed, analysers=pack.analysers)),
            "retrained": shader(
                pack, fit(pack.task, steady + pack.shifted(600, seed), dev, seed=seed, analysers=pack.analysers)
            ),
        }
        for part in ("steady", "wave"):
            rng = random.Random(f"measure/{seed}")  # noqa: S311 - scenarios, not secrets
            cases = [draw_auction(rng, wave=part == "wave") for _ in range(AUCTIONS)]
            ways: dict[str, Bid] = {
                "optimum": lambda a: a.best_bid(),
                "best constant share": constant(max(BOUNDS, key=lambda b: surplus(cases, constant(b)))),
                "the price itself": lambda a: a.price,
                **models,
            }
            best = surplus(cases, ways["optimum"])
            for name, way in ways.items():
                share = surplus(cases, way)
                found.setdefault((part, name), []).append((share, 1 - share / best))
    for (part, name), values in found.items():
        kept, regret = ([value[i] for value in values] for i in (0, 1))
        sys.stdout.write(
            f"{part:8} {name:22} surplus {np.mean(kept):.3f} ({min(kept):.3f} to {max(kept):.3f})"
            f"  regret {np.mean(regret):.1%} ({min(regret):.1%} to {max(regret):.1%})\n"
        )


if __name__ == "__main__":
    main()
