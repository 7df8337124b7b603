"""The whole loop on real headlines in the order of time, with outcomes that come late: ``python -m perf.replay``.

The first bundle learns the topics of the oldest headlines. The later ones are live traffic, one a minute: drift is
found, a training on what was captured follows, a suite locked before it judges the candidate, two people sign, and
from there on the promoted bundle answers. The bundle that was never changed answers the same requests on the side.
Needs the data folder (``--data``) and the extra ``train``. Writes ``perf/results/replay.json``; the picture beside it
and the README's paragraph are ``python -m perf.replay_page``.
"""

import argparse
import asyncio
import gzip
import json
import logging
import os
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from controlplane.evals.bootstrap import interval, resample_weights
from controlplane.evals.engine import Engine
from controlplane.evals.suite import Suite
from controlplane.loop import retrain
from controlplane.packs.example import Example
from controlplane.packs.folder import TRAINERS, is_held_out
from controlplane.packs.published import PublishedSet
from controlplane.store import decisions, jobs, ledger, rollouts
from controlplane.store import readings as reading_rows
from perf.replay_site import Delay, Request, Site
from perf.results import commit
from protos.contract.task import TaskSpec

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "perf" / "results" / "replay.json"
FOLDER = "brand-safety-topics-huffpost"
APART_MS = 60_000  # a headline a minute
STEP = 125  # requests between two looks of the control plane
ROUNDS, CONFIDENCE = 2000, 0.95

SUITE: dict[str, Any] = {
    "version": 1,
    "gates": [
        # What was learned of the oldest headlines may fade while the topics themselves change, but not be lost.
        {"metric": "accuracy", "part": "core", "vs": "primary", "margin": -0.15},
        {"metric": "accuracy", "part": "live", "vs": "primary", "margin": 0.0, "when": "drift"},
        {"metric": "accuracy", "part": "live", "vs": "control", "margin": -0.2},
        {"metric": "p99_ms", "part": "core", "max": 500.0},
    ],
    "regressions": {"part": "core", "max_share": 0.2},
    "bootstrap": {"rounds": 1000, "confidence": 0.95, "seed": 20},
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is replayed.

    Attributes:
        history: Oldest headlines, which the first bundle knows; ``live`` follow them.
        examples, live_examples: Rows a training takes of history and of captured traffic, at most.
        following: Requests after a promotion on which bundles are compared.
        trainer: "encoder" fine-tunes the language model, "additive" fits the classical one.
    """

    history: int
    live: int
    examples: int
    live_examples: int
    following: int
    trainer: str

    def settings(self) -> dict[str, Any]:
        """Return the control plane's settings; what is not named keeps its default."""
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


class History:
    """A pack over the oldest headlines: a quarter of them is held out, there is no wave anybody could have foreseen."""

    analysers: dict[str, str] = {}
    statements: dict[str, str] = {}
    sets: tuple[PublishedSet, ...] = ()

    def __init__(self, rows: Sequence[Request], labels: Sequence[str], trainer: str) -> None:
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
        self.suite = Suite.from_json(SUITE)
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


class Replay:
    """One run, and what came of every request."""

    def __init__(self, rows: Sequence[Request], scale: Scale, root: Path, engine: Engine) -> None:
        self._scale = scale
        self._live = rows[scale.history : scale.history + scale.live]
        pack = History(rows[: scale.history], sorted({row.label for row in rows}), scale.trainer)
        delay = Delay(median_s=3 * 3600, spread=1.0, missing=0.05)
        self.site = Site(root, pack, root / "history", engine, scale.settings(), delay, self._note)
        self.events: list[dict[str, Any]] = []
        self.frozen = ""
        self.said: list[tuple[str, str]] = []  # bundle and label of each request
        self.frozen_said: list[str] = []
        self._known = {"reading": 0, "decision": 0, "ledger": 0}

    async def run(self) -> None:
        """Bring up the first bundle, then replay."""
        site = self.site
        with site.deployment.store.writing(site.clock()) as unit:
            retrain.ask(
                unit, site.deployment, site.name, cause="bootstrap", reason="the oldest headlines", author="trainer",
                start_rollout=True,
            )  # fmt: skip
        for _ in range(3):  # a training, its evaluation, and the step that people sign
            await site.step()
            self._look()
        if site.primary is None:
            raise SystemExit("the first bundle did not get through; see above")
        self.frozen = site.primary
        for at in range(0, len(self._live), STEP):
            part = self._live[at : at + STEP]
            self.said += site.serve(part, APART_MS)
            self.frozen_said += site.labels(part, self.frozen)
            before = site.primary
            await site.step()
            self._look()
            if site.primary != before:
                self._note("promoted", str(site.primary))

    def _note(self, kind: str, what: str) -> None:
        event = {"request": len(self.said), "kind": kind, "what": what}
        self.events.append(event)
        print(f"{event['request']:6,} {kind}: {what}", flush=True)

    def _look(self) -> None:
        """Note what the control plane has written down since the last look."""
        with self.site.deployment.store.reading() as unit:
            readings = reading_rows.newest(unit, limit=1000)
            decided = decisions.listed(unit, self.site.name)
            entries = list(ledger.entries(unit.connection, self._known["ledger"], 1_000_000))
        for row in readings:
            if row.id > self._known["reading"] and row.verdict == "drift":
                self._note("drift", f"{row.summary}; {row.action}")
        for row in sorted(decided, key=lambda row: row.id):
            if row.id > self._known["decision"]:
                self._note("decided", row.reason)
        told = ("job.failed", "bundle.trained", "bundle.evaluated", "labels.flagged", "rollout.shadowing")
        for entry in entries:
            if entry.action in (*told, "rollout.shifted", "rollout.promoted", "rollout.rolled_back"):
                self._note(entry.action, json.dumps(dict(entry.detail), sort_keys=True)[:600])
        self._known = {
            "reading": max([row.id for row in readings], default=0),
            "decision": max([row.id for row in decided], default=0),
            "ledger": self._known["ledger"] + len(entries),
        }

    def result(self) -> dict[str, Any]:
        """Put the figures together."""
        truth = [request.label for request in self._live]
        ours = np.array([said == label for (_, said), label in zip(self.said, truth, strict=True)], dtype=np.float64)
        frozen = np.array([said == label for said, label in zip(self.frozen_said, truth, strict=True)], np.float64)
        both = {"in_force": ours, "frozen": frozen}
        promoted = [e["request"] for e in self.events if e["kind"] == "promoted"]
        with self.site.deployment.store.reading() as unit:
            done = [job for job in jobs.listed(unit, self.site.name) if job.kind == "train" and job.result]
            judged = [job for job in jobs.listed(unit, self.site.name) if job.kind == "evaluate" and job.result]
            states = [(row.state.id, row.state.phase.value, row.end_reason) for row in rollouts.listed(unit)]
            size = ledger.head(unit.connection)[0]
        windows = [slice(at, min(at + self._scale.following, len(truth))) for at in promoted]
        return {
            "data": FOLDER,
            "labels": len(set(truth)),
            "trainer": self._scale.trainer,
            "requests": len(truth),
            "history": self._scale.history,
            "accuracy": {"in_force": float(ours.mean()), "frozen": float(frozen.mean())},
            "after_promotions": [
                {"from": w.start, "requests": w.stop - w.start} | _compared(ours[w], frozen[w]) for w in windows
            ],
            "over_time": [
                {"to": at + 250} | {name: float(hits[at : at + 250].mean()) for name, hits in both.items()}
                for at in range(0, len(truth) - 249, 250)
            ],
            "trainings": [
                {
                    "cause": job.cause,
                    "examples": job.result["examples"],
                    "seconds": round(job.result["seconds"], 1),
                    "bundle": job.result["bundle_digest"],
                    "dev_macro_f1": job.result["dev_macro_f1"],
                }
                for job in done
            ],
            "evaluations": [
                {
                    "cause": job.cause,
                    "accepted": job.result["accepted"],
                    "gates": [{k: gate[k] for k in ("text", "passed", "found", "low")} for gate in job.result["gates"]],
                }
                for job in judged
            ],
            "rollouts": [{"id": name, "phase": phase, "end": reason} for name, phase, reason in states],
            "ledger_entries": size,
            "events": self.events,
        }  # fmt: skip


def _compared(ours: Any, frozen: Any) -> dict[str, Any]:
    """Compare on the same requests: the mean difference with a paired bootstrap interval."""
    if len(ours) == 0:
        return {}
    drawn = resample_weights(len(ours), ROUNDS, 0) @ (ours - frozen) / len(ours)
    span = interval(drawn, CONFIDENCE)
    return {
        "in_force": float(ours.mean()),
        "frozen": float(frozen.mean()),
        "advantage": float((ours - frozen).mean()),
        "low": span.low,
        "high": span.high,
        "confidence": CONFIDENCE,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.replay", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--history", type=int, default=9_000)
    parser.add_argument("--live", type=int, default=9_000)
    parser.add_argument("--examples", type=int, default=3_000)
    parser.add_argument("--live-examples", type=int, default=2_000)
    parser.add_argument("--following", type=int, default=1_000)
    parser.add_argument("--trainer", choices=TRAINERS, default="encoder")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    scale = Scale(chosen.history, chosen.live, chosen.examples, chosen.live_examples, chosen.following, chosen.trainer)
    measured, began, cpu = commit(), time.monotonic(), os.times()
    with tempfile.TemporaryDirectory(prefix="interlock-replay-") as scratch:
        root = Path(scratch)
        (root / "bundles").mkdir()
        with Engine(root / "bundles") as engine:
            replay = Replay(headlines(chosen.data), scale, root, engine)
            try:
                asyncio.run(replay.run())
                found = replay.result()
            finally:
                replay.site.close()
    used = os.times()
    found |= {
        "command": f"python -m perf.replay --history {scale.history} --live {scale.live} --examples {scale.examples} "
        f"--live-examples {scale.live_examples} --following {scale.following} --trainer {scale.trainer}",
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(used[:4]) - sum(cpu[:4]), 1),
        "commit": measured,
        "machine": platform.machine(),
        "suite": SUITE,
        "settings": scale.settings(),
    }
    chosen.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps({k: found[k] for k in ("accuracy", "after_promotions", "seconds", "cpu_seconds")}, indent=1))


if __name__ == "__main__":
    main()
