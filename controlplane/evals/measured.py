"""What models answered on the parts of an evaluation, and their metrics under every resampling."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from controlplane.evals import registry
from controlplane.evals.bootstrap import interval
from controlplane.evals.control import fit_control
from controlplane.evals.engine import Scores
from controlplane.evals.engines import Engines
from controlplane.evals.evaluation import Value
from controlplane.evals.inputs import columns_of, input_of
from controlplane.evals.metrics import Floats, Ints
from controlplane.evals.registry import Answers
from controlplane.packs.example import Example
from protos.contract.task import TaskSpec

LEAST_SLICE = 20  # cases of a slice below which nothing is said of it
_SLICE_METRICS = ("accuracy", "macro_f1", "mean_cost")
BINS = 10  # of a reliability curve
_TIMED = 200  # texts sent one at a time for the latency figure


class Measured:
    """One model's answers on one part, and their metrics under every resampling."""

    def __init__(self, task: TaskSpec, examples: Sequence[Example], scores: Scores, p99: float | None) -> None:
        labels = np.array([task.labels.index(example.label) for example in examples])
        answers = Answers.of(task, labels, scores.probabilities, scores.decisions)
        self.answers = replace(answers, columns=columns_of(task, [example.text for example in examples]))
        self.p99 = p99
        self.refused = len(scores.refused)

    def metric(self, name: str, weights: Floats | None, index: Ints | None = None) -> Floats:
        """Return a metric's value in every round, of some of the cases where ``index`` says so, shape [rounds]."""
        if index is None:
            return registry.find(name).value(self.answers, weights)
        return registry.find(name).value(self.answers.take(index), None if weights is None else weights[:, index])

    def reliability(self) -> list[dict[str, Any]]:
        """Compare how sure the model was with how often it was right, in bins of equal width without the empty ones."""
        sure = self.answers.probabilities.max(axis=1)
        right = self.answers.probabilities.argmax(axis=1) == self.answers.labels
        place = np.minimum((sure * BINS).astype(int), BINS - 1)
        return [
            {"sure": float(sure[of].mean()), "right": float(right[of].mean()), "cases": int(of.sum())}
            for of in (place == bin_ for bin_ in range(BINS))
            if of.any()
        ]

    def values(self, names: Iterable[str], weights: Floats, confidence: float) -> dict[str, Value]:
        """Return metrics with their intervals; one without a value here is left out."""
        found = {}
        for name in names:
            value = float(self.metric(name, None)[0])
            if np.isfinite(value):
                found[name] = Value(value, interval(self.metric(name, weights), confidence))
        if self.p99 is not None:
            found[registry.LATENCY] = Value(self.p99, None)
        return found


def engine_answers(
    task: TaskSpec,
    worker: Engines,
    digests: Mapping[str, str],
    parts: Mapping[str, Sequence[Example]],
    timed: Collection[str],
) -> dict[str, dict[str, Measured]]:
    """Have engines answer every part with every bundle, parts in ``timed`` also one by one; by part and model."""
    measured: dict[str, dict[str, Measured]] = {part: {} for part in parts}
    for model, digest in digests.items():
        worker.load(digest)
        for part, examples in parts.items():
            inputs = [input_of(task, example.text) for example in examples]
            scores = worker.score(digest, inputs, task=task)
            p99 = None
            if part in timed:
                alone = worker.score(digest, inputs[:_TIMED], window=1, task=task)
                p99 = float(np.quantile(alone.latencies_ms, 0.99))
            measured[part][model] = Measured(task, examples, scores, p99)
    return measured


def control_answers(
    task: TaskSpec, parts: Mapping[str, Sequence[Example]], training: Sequence[Example]
) -> dict[str, Measured]:
    """Fit the classical control on what the candidate was trained on, and have it answer every part."""
    control = fit_control(task, training, task.labels)
    found = {}
    for part, examples in parts.items():
        probabilities = control.probabilities([example.text for example in examples])
        decisions = np.array([task.decide(row) for row in probabilities.tolist()], dtype=np.int64)
        found[part] = Measured(task, examples, Scores(probabilities, decisions, np.zeros(len(examples))), None)
    return found


def inside(examples: Sequence[Example], name: str | None) -> Ints | None:
    """Return which cases are of a slice; None for all of them."""
    return None if name is None else np.flatnonzero([example.slice == name for example in examples])


def slices(examples: Sequence[Example], candidate: Measured) -> dict[str, dict[str, Any]]:
    """Return the candidate's metrics on every slice that is large enough to say anything."""
    found: dict[str, dict[str, Any]] = {}
    for name, n in sorted(Counter(example.slice for example in examples if example.slice).items()):
        index = inside(examples, name)
        found[name] = {"cases": n}
        if n >= LEAST_SLICE:
            values = {metric: float(candidate.metric(metric, None, index)[0]) for metric in _SLICE_METRICS}
            found[name] |= {metric: value for metric, value in values.items() if np.isfinite(value)}
    return found
