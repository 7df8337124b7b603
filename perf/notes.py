"""Whole notes from dialogues as published: the sentences that a served bundle chooses, against the references."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane.evals.labelled import CANDIDATE, CONTROL, LabelledRun
from controlplane.evals.note_run import run_notes
from controlplane.packs.clinical_note.selection import learn, read, selection_task
from controlplane.packs.registry import load_pack
from protos.contract.bundle import BundleStore

SPECIALIST = "clinical-note"
# What the whole dialogue as the note reaches elsewhere; of encounters on the first test part, not on these.
PUBLISHED = {"clinical-note-mts-dialog": {"rouge1": 0.209}, "clinical-note-aci-bench": {"rouge1": 0.328}}
NAMES = {name: f"{name}, note" for name in PUBLISHED}  # in the table of results


def measure(name: str, data: Path, bundles: Path, lineage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Learn on a set's train part and yield a row a metric; the control copies the whole dialogue."""
    pack_task = load_pack(SPECIALIST).task
    train, dev = (data / name / f"{part}.jsonl.gz" for part in ("train", "dev"))
    fitted, at = learn(selection_task(pack_task), read(train))
    digest = fitted.export(selection_task(pack_task, at), BundleStore(bundles), lineage)
    report = run_notes(LabelledRun(bundles, digest, dev, gateway_cases=0))
    for metric in ("rouge1", "rouge2", "rouge_l", "critical_precision", "critical_recall"):
        ours, control = (report["models"][model][metric] for model in (CANDIDATE, CONTROL))
        yield {
            "specialist": SPECIALIST,
            "set": NAMES[name],
            "engine": "additive",
            "metric": metric,
            "ours": round(ours["value"], 4),
            "low": round(ours["low"], 4),
            "high": round(ours["high"], 4),
            "control": round(control["value"], 4),
            "published": PUBLISHED[name].get(metric),
            "n": report["data"]["cases"],
            "bundle": digest,
            "worker_ms": {name: round(value, 3) for name, value in report["worker"]["latency_ms"].items()},
        }
