"""What a replay is to show, written down before it runs: how much is replayed, by what suite, under what settings."""

from dataclasses import dataclass
from typing import Any

CONTROL_MARGIN = {"encoder": 0.1, "additive": 0.2}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is replayed; the defaults are what is recorded of either trainer.

    A replay shows what it should when drift leads to a promotion, and the 95 % interval of what the promoted bundle is
    ahead of the first one, over the ``following`` requests, lies above 0. One language model's training takes about a
    minute and a half of CPU at first and well over two with captured traffic.

    Latency is not judged: what else runs on the machine decides it. A first attempt with a language model held it to
    500 ms, on two cores with a load of 18, and its first bundle was refused before any live request.

    Attributes:
        trainer: "encoder" fine-tunes the language model, "additive" fits the classical one.
        history: Oldest headlines, which the first bundle knows; ``live`` follow them.
        examples, live_examples: Rows a training takes of history and of captured traffic, at most.
        following: Requests after a promotion on which bundles are compared.
    """

    trainer: str = "encoder"
    history: int = 9_000
    live: int = 4_000
    examples: int = 2_500
    live_examples: int = 2_000
    following: int = 1_000

    @property
    def suite(self) -> dict[str, Any]:
        """The suite that judges every candidate."""
        return {
            "version": 1,
            "gates": [
                # What was learned of the oldest headlines may fade while the topics themselves change, but not be lost.
                {"metric": "accuracy", "part": "core", "vs": "primary", "margin": -0.15},
                {"metric": "accuracy", "part": "live", "vs": "primary", "margin": 0.0, "when": "drift"},
                {"metric": "accuracy", "part": "live", "vs": "control", "margin": -CONTROL_MARGIN[self.trainer]},
            ],
            "regressions": {"part": "core", "max_share": 0.2},
            "bootstrap": {"rounds": 1000, "confidence": 0.95, "seed": 20},
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The control plane's settings; what is not named keeps its default."""
        return {
            "drift": {"least_labelled": 500, "cooldown_s": 86_400},
            "training": {
                "examples": self.examples,
                "live_examples": self.live_examples,
                "held_out": 500,
                "epochs": 2,
                "threads": 1,
                "foreground": True,
                "max_seconds": 7200,
                "recipe": {"checks": 2},
            },
            # A bundle that has learned new topics differs from one that has not: that is no harm here.
            "rollout": {
                "stages_bp": [5000],
                "shadow_bp": 10_000,
                "cost_margin": 0.05,
                "failure_margin": 0.05,
                "disagreement_limit": 0.95,
            },
        }
