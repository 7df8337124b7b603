"""Whole notes: the sentences of dialogues that a bundle keeps, against notes that people wrote of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from controlplane.datasets.rows import Columns, DataInvalid, read_rows
from controlplane.evals.bootstrap import interval, resample_weights
from controlplane.evals.callers import quantiles, through_gateway
from controlplane.evals.engine import Scores
from controlplane.evals.engines import Engines
from controlplane.evals.labelled import CANDIDATE, CONTROL, TIMED, LabelledRun, Progress
from controlplane.evals.metrics import Floats
from controlplane.packs.clinical_note.note import OMITTED, Turn, request_of, turns_of
from controlplane.packs.clinical_note.selection import Chooser, measured, read, written
from protos.contract.bundle import BundleStore
from protos.contract.digest import digest_bytes
from protos.contract.task import TaskSpec

KEEPS = ("omit", "keep")  # the decisions of a bundle that chooses sentences


def is_of_notes(task: TaskSpec, asked: LabelledRun) -> bool:
    """Say whether a bundle chooses sentences and the file has dialogues with their notes, and no columns were named."""
    if task.decisions != KEEPS or asked.columns != Columns():
        return False
    first = next((row for _, row in read_rows(asked.data)), {})
    return "dialogue" in first and bool({"note", "section_text"} & set(first))


def run_notes(asked: LabelledRun, progress: Progress = lambda share, what: None) -> dict[str, Any]:
    """Measure and return a report of the form of ``run_labelled``; the control copies the whole dialogue.

    Raises:
        DataInvalid: The file cannot be used, or what was asked makes no sense of whole notes.
        EngineFailed: The worker or the gateway did not start or answer.
    """
    for name in ("rival", "groups", "train", "answers", "metrics"):
        if getattr(asked, name):
            raise DataInvalid(f"{name} is given, expected nothing of the kind where whole notes are measured")
    task = BundleStore(asked.bundles_dir).manifest(asked.bundle).task
    rows = read(asked.data)
    inputs = [request_of(turn).input for dialogue, _ in rows for turn in turns_of(dialogue)]
    with Engines(asked.bundles_dir, asked.engines) as worker:
        worker.load(asked.bundle)
        scores = worker.score(asked.bundle, inputs, progress=lambda n: progress(n / len(inputs), CANDIDATE), task=task)
        alone = worker.score(asked.bundle, inputs[:TIMED], window=1, task=task).latencies_ms
        servers = worker.elsewhere_of({CANDIDATE: asked.bundle})
    ways: Mapping[str, Chooser] = {CANDIDATE: _chooser(task, scores), CONTROL: list}
    figures = {
        name: {
            metric: np.array(values)
            for metric, values in measured([written(dialogue, way) for dialogue, _ in rows], rows).items()
        }
        for name, way in ways.items()
    }
    gateway = through_gateway(asked, task, inputs, None, progress) if asked.gateway_cases else None
    return {
        "specialist": task.name,
        "bundle": asked.bundle,
        "rival": None,
        "data": {
            "file": str(asked.data),
            "digest": digest_bytes(asked.data.read_bytes()),
            "cases": len(rows),
            "sentences": len(inputs),
            "set_aside": [],
            "labels": {},
            "weighted": False,
        },
        **_compared(asked, figures),
        "refused": {CANDIDATE: len(scores.refused)} if scores.refused else {},
        "slices": {},
        "robustness": [],
        "calibration": [],
        "recorded": {},
        "stability": None,
        "worker": {"timed_cases": len(alone), "latency_ms": quantiles(alone)},
        "elsewhere": servers,
        "gateway": gateway,
    }


def _chooser(task: TaskSpec, scores: Scores) -> Chooser:
    """Return the choice of a bundle that answered all sentences, for dialogues that are asked for in their order."""
    places = iter(range(len(scores.decisions)))
    omitted = scores.probabilities[:, task.labels.index(OMITTED)]

    def choose(turns: Sequence[Turn]) -> list[Turn]:
        index = [next(places) for _ in turns]
        kept = [turn for turn, i in zip(turns, index, strict=True) if KEEPS[scores.decisions[i]] == "keep"]
        # A note of nothing helps nobody: the surest sentence stands where none is sure enough.
        return kept or [turns[int(omitted[index].argmin())]]

    return choose


def _compared(asked: LabelledRun, figures: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    ours, control = figures[CANDIDATE], figures[CONTROL]
    cases = len(next(iter(ours.values())))
    weights = resample_weights(cases, asked.rounds, asked.seed) / cases

    def told(values: Floats, name: str) -> dict[str, float]:
        span = interval(weights @ values, asked.confidence)
        return {name: float(values.mean()), "low": span.low, "high": span.high}

    return {
        "bootstrap": {"rounds": asked.rounds, "confidence": asked.confidence, "seed": asked.seed},
        "models": {model: {name: told(v, "value") for name, v in found.items()} for model, found in figures.items()},
        "differences": {CONTROL: {name: told(v - control[name], "advantage") for name, v in ours.items()}},
    }
