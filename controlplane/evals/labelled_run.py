"""Measure bundles on any labelled file: metrics with intervals, slices, calibration, what callers would see."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from controlplane.datasets.rows import Case, DataInvalid, Refused, read_cases
from controlplane.evals import registry
from controlplane.evals.callers import quantiles, through_gateway
from controlplane.evals.engine import Scores
from controlplane.evals.engines import Engines
from controlplane.evals.labelled import CANDIDATE, CONTROL, RIVAL, TIMED, LabelledRun, Progress
from controlplane.evals.labels import Labels
from controlplane.evals.metrics import Ints
from controlplane.evals.recorded import read_answers
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import answers_to_changed, changed_inputs, share_changed
from controlplane.evals.stability import stability
from controlplane.evals.tables import advantages, by_slice, calibration, confusion, with_intervals
from protos import decide_pb2
from protos.contract.bundle import BundleStore
from protos.contract.digest import digest_bytes
from protos.contract.task import TaskSpec

MOST_LEARNED = 2000  # cases that stability is measured from


@dataclass(frozen=True, slots=True)
class _Changed:
    """What a bundle answers to cases that were changed: which ones, shape [n]."""

    change: str
    places: Ints
    scores: Scores

    def share_decided_otherwise(self, unchanged: Scores) -> float:
        """Return how many of them are decided otherwise than the ``unchanged`` cases, from 0 to 1."""
        return share_changed(unchanged.decisions[self.places], self.scores)

    def judged(self, task: TaskSpec, labels: Labels, cases: Sequence[Case], truth: Ints) -> Answers:
        """Put them beside the labels of the cases, of which ``truth`` are the places, shape [cases]."""
        return labels.answers(task, [cases[i] for i in self.places], truth[self.places], self.scores)


@dataclass(frozen=True, slots=True)
class _Answered:
    """What bundles answered.

    Attributes:
        models: By what the report calls them.
        about: Parts of the report that only the running engines know.
    """

    models: dict[str, Scores]
    changed: list[_Changed]
    about: dict[str, Any]


def run_labelled(asked: LabelledRun, progress: Progress = lambda share, what: None) -> dict[str, Any]:
    """Measure and return a JSON-able report.

    Raises:
        DataInvalid: The file, its columns or its labels cannot be used.
        BundleInvalid: A bundle is missing or altered, or the two answer different tasks.
        MetricUnknown: A metric's name is wrong.
        EngineFailed: The worker, server or gateway did not start or answer.
    """
    task = _task(asked)
    labels = Labels.of(task, asked.groups)
    extra = [registry.find(name) for name in asked.metrics]
    aside: list[Refused] = []
    cases = read_cases(
        asked.data, task, asked.columns, labels.names, set_aside=aside.append if asked.quarantine else None
    )
    truth = np.array([labels.names.index(case.label) for case in cases])
    learned = _learned(asked, task, labels)
    found = _answered(asked, task, cases, learned, progress)
    others, recorded = _recorded(asked, task, cases)
    answers = {name: labels.answers(task, cases, truth, scores) for name, scores in (found.models | others).items()}
    if asked.train is not None:
        answers[CONTROL] = labels.control(task, learned, cases, truth)
    ours = answers[CANDIDATE]
    named = list({one.text: one for one in (*registry.usual(ours), *extra) if one.suits(ours)}.values())
    progress(0.0, "intervals")
    given = [case.given for case in cases]
    return {
        "specialist": task.name,
        "bundle": asked.bundle,
        "rival": asked.rival,
        "data": _about_data(asked, cases, aside),
        "bootstrap": {"rounds": asked.rounds, "confidence": asked.confidence, "seed": asked.seed},
        "models": {name: with_intervals(asked, named, one) for name, one in answers.items()},
        "refused": {name: len(one.refused) for name, one in found.models.items() if one.refused},
        "differences": {
            name: advantages(asked, named, ours, one) for name, one in answers.items() if name != CANDIDATE
        },
        "slices": {
            column: by_slice(asked, named, ours, [case.slices[column] for case in cases])
            for column in (*asked.columns.slices, *asked.columns.bands)
        },
        "robustness": [
            {
                "change": one.change,
                "cases": len(one.places),
                "refused": len(one.scores.refused),
                "decisions_changed": one.share_decided_otherwise(found.models[CANDIDATE]),
                "metrics": with_intervals(asked, named, one.judged(task, labels, cases, truth)),
            }
            for one in found.changed
        ],
        "calibration": calibration(ours),
        "confusion": {"labels": list(labels.names), "counts": confusion(ours)},
        "recorded": recorded,
        **found.about,
        "gateway": through_gateway(asked, task, given, ours, progress) if asked.gateway_cases else None,
    }


def _task(asked: LabelledRun) -> TaskSpec:
    """Return the task of the bundle, and of its rival."""
    store = BundleStore(asked.bundles_dir)
    task = store.manifest(asked.bundle).task
    if asked.rival is not None and store.manifest(asked.rival).task.labels != task.labels:
        raise DataInvalid(f"bundle {asked.rival} has other labels than {asked.bundle}, expected the same")
    return task


def _about_data(asked: LabelledRun, cases: Sequence[Case], aside: Sequence[Refused]) -> dict[str, Any]:
    return {
        "file": str(asked.data),
        "digest": digest_bytes(asked.data.read_bytes()),
        "cases": len(cases),
        "set_aside": [asdict(one) for one in aside],
        "labels": dict(Counter(case.label for case in cases).most_common()),
        "weighted": asked.columns.weight is not None,
    }


def _answered(
    asked: LabelledRun, task: TaskSpec, cases: Sequence[Case], learned: Sequence[Case], progress: Progress
) -> _Answered:
    """Ask the engines: every case, some one at a time, some changed, and some that the bundle learned from."""
    inputs = [case.given for case in cases]
    digests = {CANDIDATE: asked.bundle} | ({RIVAL: asked.rival} if asked.rival else {})
    models, moved = {}, None
    with Engines(asked.bundles_dir, asked.engines) as worker:
        for name, digest in digests.items():
            worker.load(digest)
            told = lambda n, name=name: progress(n / len(inputs), name)  # noqa: E731
            models[name] = worker.score(digest, inputs, progress=told, task=task)
        alone = worker.score(asked.bundle, inputs[:TIMED], window=1, task=task).latencies_ms
        changed = _changed(asked, task, worker, inputs, progress)
        if learned:
            before = [learned[i] for i in asked.drawn(len(learned), MOST_LEARNED)]
            scores = worker.score(asked.bundle, [case.given for case in before], task=task)
            then, now = (one.probabilities[:, task.score_index] for one in (scores, models[CANDIDATE]))
            moved = stability(task, [case.text for case in before], then, [case.text for case in cases], now)
        about = {
            "stability": moved,
            "worker": {"timed_cases": len(alone), "latency_ms": quantiles(alone)},
            "elsewhere": worker.elsewhere_of(digests),
        }
    return _Answered(models, changed, about)


def _changed(
    asked: LabelledRun, task: TaskSpec, worker: Engines, inputs: Sequence[decide_pb2.Input], progress: Progress
) -> list[_Changed]:
    """Ask some of the cases again, changed."""
    drawn = asked.drawn(len(inputs), asked.robustness_cases)
    found = []
    for change, places, made in changed_inputs(task, [inputs[i] for i in drawn]):
        progress(0.0, change)
        before = [inputs[i] for i in drawn[places]]
        found.append(_Changed(change, drawn[places], answers_to_changed(worker, asked.bundle, task, before, made)))
    return found


def _recorded(
    asked: LabelledRun, task: TaskSpec, cases: Sequence[Case]
) -> tuple[dict[str, Scores], dict[str, dict[str, Any]]]:
    """Read what other models answered, and what is known of those answers besides; raises DataInvalid."""
    found = {}
    for name, path in asked.answers.items():
        if name in (CANDIDATE, RIVAL, CONTROL):
            raise DataInvalid(f"answers are called {name!r}, expected another name than the table's own")
        found[name] = read_answers(path, task, [case.name for case in cases])
    return {name: scores for name, (scores, _) in found.items()}, {name: about for name, (_, about) in found.items()}


def _learned(asked: LabelledRun, task: TaskSpec, labels: Labels) -> list[Case]:
    """Read what the control is fitted on, and stability measured from; nothing where no file is named."""
    if asked.train is None:
        return []
    # The control may be fitted on the bundle's own labels or on the groups, whichever the file has.
    known = tuple(dict.fromkeys((*task.labels, *labels.names)))
    found = read_cases(
        asked.train, task, asked.columns, known, set_aside=(lambda _: None) if asked.quarantine else None
    )
    if not any({case.label for case in found} <= set(names) for names in (task.labels, labels.names)):
        raise DataInvalid(f"{asked.train} mixes labels of the task and groups, expected one or the other")
    return found
