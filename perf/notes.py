"""Whole notes from dialogues as published: the sentences that a served bundle chooses, against the references."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.evals.engine import Engine
from controlplane.evals.inputs import input_of
from controlplane.packs.clinical_note.note import Turn, turns_of
from controlplane.packs.clinical_note.selection import KEPT, case_of, learn, measured, read, selection_task
from controlplane.packs.registry import load_pack
from protos.contract.bundle import BundleStore

SPECIALIST = "clinical-note"
# What the whole dialogue as the note reaches elsewhere; of encounters on the first test part, not on these.
PUBLISHED = {"clinical-note-mts-dialog": {"rouge1": 0.209}, "clinical-note-aci-bench": {"rouge1": 0.328}}
NAMES = {name: f"{name}, note" for name in PUBLISHED}  # in the table of results
ROUNDS, TIMED = 1000, 200


def measure(name: str, data: Path, bundles: Path, lineage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Learn on a set's train part and yield a row a metric; the control copies the whole dialogue."""
    pack_task = load_pack(SPECIALIST).task
    train, dev = (read(data / name / f"{part}.jsonl.gz") for part in ("train", "dev"))
    fitted, at = learn(selection_task(pack_task), train)
    task = selection_task(pack_task, at)
    digest = fitted.export(task, BundleStore(bundles), lineage)
    with Engine(bundles) as worker:
        worker.load(digest)

        def choose(turns: Sequence[Turn]) -> list[Turn]:
            scores = worker.score(digest, [input_of(task, case_of(task, turn, KEPT).text) for turn in turns])
            kept = [turn for turn, decision in zip(turns, scores.decisions, strict=True) if decision]
            return kept or [turns[int(scores.probabilities[:, task.score_index].argmax())]]

        ours, control = measured(dev, choose), measured(dev, list)
        asked = [input_of(task, case_of(task, turn, KEPT).text) for turn in _turns(dev)[:TIMED]]
        p50, p90, p99 = np.quantile(worker.score(digest, asked, window=1).latencies_ms, [0.5, 0.9, 0.99])
    drawn = np.random.default_rng(0).integers(0, len(dev), (ROUNDS, len(dev)))
    for metric in ("rouge1", "rouge2", "rouge_l", "critical_precision", "critical_recall"):
        low, high = np.quantile(np.array(ours[metric])[drawn].mean(1), [0.025, 0.975])
        yield {
            "specialist": SPECIALIST,
            "set": NAMES[name],
            "engine": "additive",
            "metric": metric,
            "ours": round(float(np.mean(ours[metric])), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "control": round(float(np.mean(control[metric])), 4),
            "published": PUBLISHED[name].get(metric),
            "n": len(dev),
            "bundle": digest,
            "worker_ms": {"p50": round(float(p50), 3), "p90": round(float(p90), 3), "p99": round(float(p99), 3)},
        }


def _turns(rows: Sequence[tuple[str, str]]) -> list[Turn]:
    return [turn for dialogue, _ in rows for turn in turns_of(dialogue)]
