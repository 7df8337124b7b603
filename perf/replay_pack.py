"""The headlines of a replay: all of them in the order of time, and the oldest as a pack to learn from."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from controlplane.evals.suite import Suite
from controlplane.packs.example import Example
from controlplane.packs.folder import is_held_out
from controlplane.packs.published import PublishedSet
from perf.replay_site import Request
from protos.contract.task import TaskSpec

FOLDER = "brand-safety-topics-huffpost"


class History:
    """A pack over the oldest headlines: a quarter of them is held out, there is no wave anybody could have foreseen."""

    analysers: dict[str, str] = {}
    statements: dict[str, str] = {}
    sets: tuple[PublishedSet, ...] = ()

    def __init__(self, rows: Sequence[Request], labels: Sequence[str], trainer: str, suite: Suite) -> None:
        self.trainer = trainer
        self.task = TaskSpec.from_json(
            {
                "name": "topics",
                "description": "Topic of a headline.",
                "fields": [{"name": "text", "kind": "text", "required": True, "capture": True}],
                "labels": list(labels),
                "decisions": list(labels),
                "cost": [[0.0 if a == b else 1.0 for b in labels] for a in labels],
                "score_label": labels[0],
                "fallback_decision": labels[0],
                "fallback_score": 0.0,
                "max_tokens": 48,
                "max_input_bytes": 8192,
                "deadline_us": 100_000,
                "reserve_us": 3_000,
                "capture_bp": 10_000,
            }
        )
        self.suite = suite
        self._held = [Example(r.text, r.label, "history") for r in rows if is_held_out(r.text)]
        self._free = [Example(r.text, r.label, "history") for r in rows if not is_held_out(r.text)]

    def training_set(self, n: int, seed: int) -> list[Example]:
        """Draw headlines to train on."""
        return random.Random(f"train/{seed}").sample(self._free, min(n, len(self._free)))  # noqa: S311

    def held_out(self, n: int, seed: int) -> list[Example]:
        """Draw headlines that are never trained on."""
        return random.Random(f"held/{seed}").sample(self._held, min(n, len(self._held)))  # noqa: S311

    def shifted(self, n: int, seed: int) -> list[Example]:
        """Nobody knows what is to come."""
        return []

    held_out_shifted = shifted


def headlines(data: Path) -> list[Request]:
    """Read all headlines, oldest first."""
    rows = []
    for part in ("train", "dev"):
        with gzip.open(data / FOLDER / f"{part}.jsonl.gz", "rt") as file:
            rows += [json.loads(line) for line in file]
    rows.sort(key=lambda row: row["time_rank"])
    return [Request(row["id"], row["headline"], row["topic_merged"]) for row in rows]
