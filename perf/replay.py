"""The whole loop on real headlines in the order of time, with outcomes that come late: ``python -m perf.replay``.

The first bundle learns the topics of the oldest headlines. The later ones are live traffic, one a minute: drift is
found, a training on what was captured follows, a suite locked before it judges the candidate, two people sign, and
from there on the promoted bundle answers. The bundle that was never changed answers the same requests on the side.
Needs the data folder (``--data``) and the extra ``train``. Writes ``perf/results/replay-<trainer>.json``; the picture
beside it and the README's paragraph are ``python -m perf.replay_page``.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from controlplane.evals.bootstrap import interval, resample_weights
from controlplane.evals.engine import Engine
from controlplane.evals.suite import Suite
from controlplane.loop import retrain
from controlplane.store import decisions, jobs, ledger, rollouts
from controlplane.store import readings as reading_rows
from perf.replay_pack import FOLDER, History, headlines
from perf.replay_plan import CONTROL_MARGIN, Plan
from perf.replay_site import Delay, Request, Site
from perf.results import commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "perf" / "results"
APART_MS = 60_000  # a headline a minute
STEP = 125  # requests between two looks of the control plane
ROUNDS, CONFIDENCE = 2000, 0.95


class Replay:
    """One run, and what came of every request."""

    def __init__(self, rows: Sequence[Request], plan: Plan, root: Path, engine: Engine) -> None:
        self._plan = plan
        self._live = rows[plan.history : plan.history + plan.live]
        pack = History(rows[: plan.history], sorted({r.label for r in rows}), plan.trainer, Suite.from_json(plan.suite))
        delay = Delay(median_s=3 * 3600, spread=1.0, missing=0.05)
        self.site = Site(root, pack, root / "history", engine, plan.settings, delay, self._note)
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
            failed = [g["text"] for one in self._evaluations() for g in one["gates"] if g["passed"] is False]
            raise SystemExit(f"the first bundle did not get through: {'; '.join(failed)}")
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
            states = [(row.state.id, row.state.phase.value, row.end_reason) for row in rollouts.listed(unit)]
            size = ledger.head(unit.connection)[0]
        windows = [slice(at, min(at + self._plan.following, len(truth))) for at in promoted]
        return {
            "data": FOLDER,
            "labels": len(set(truth)),
            "requests": len(truth),
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
            "evaluations": self._evaluations(),
            "rollouts": [{"id": name, "phase": phase, "end": reason} for name, phase, reason in states],
            "ledger_entries": size,
            "events": self.events,
        }  # fmt: skip

    def _evaluations(self) -> list[dict[str, Any]]:
        """Return what the suite said of every candidate."""
        with self.site.deployment.store.reading() as unit:
            judged = [job for job in jobs.listed(unit, self.site.name) if job.kind == "evaluate" and job.result]
        return [
            {
                "cause": job.cause,
                "accepted": job.result["accepted"],
                "gates": [{k: gate[k] for k in ("text", "passed", "found", "low")} for gate in job.result["gates"]],
            }
            for job in judged
        ]


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
    usual = Plan()
    parser = argparse.ArgumentParser("python -m perf.replay", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--trainer", choices=tuple(CONTROL_MARGIN), default=usual.trainer)
    sizes = ("history", "live", "examples", "live_examples", "following")
    for size in sizes:
        parser.add_argument(f"--{size.replace('_', '-')}", type=int, default=getattr(usual, size))
    parser.add_argument("--out", type=Path, help="file to write, default perf/results/replay-TRAINER.json")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    plan = Plan(chosen.trainer, **{size: getattr(chosen, size) for size in sizes})
    found = measured(plan, chosen.data)
    out = chosen.out or RESULTS / f"replay-{plan.trainer}.json"
    out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps({k: found[k] for k in ("accuracy", "after_promotions", "seconds", "cpu_seconds")}, indent=1))


def measured(plan: Plan, data: Path) -> dict[str, Any]:
    """Replay; return what was found, under which plan, by which commit, and what it took."""
    of_commit, began, cpu = commit(), time.monotonic(), os.times()
    with tempfile.TemporaryDirectory(prefix="interlock-replay-") as scratch:
        root = Path(scratch)
        (root / "bundles").mkdir()
        with Engine(root / "bundles") as engine:
            replay = Replay(headlines(data), plan, root, engine)
            try:
                asyncio.run(replay.run())
                found = replay.result()
            finally:
                replay.site.close()
    used = os.times()
    return found | {
        "plan": asdict(plan),
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(used[:4]) - sum(cpu[:4]), 1),
        "commit": of_commit,
        "machine": platform.machine(),
        "suite": plan.suite,
        "settings": plan.settings,
    }


if __name__ == "__main__":
    main()
