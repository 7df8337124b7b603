"""One evaluation: candidate, primary and control on the same cases, and the suite's verdict."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from controlplane.evals import registry
from controlplane.evals.bootstrap import Interval, interval, resample_weights
from controlplane.evals.control import fit_control
from controlplane.evals.engine import WORKER, Engine, Scores
from controlplane.evals.inputs import input_of
from controlplane.evals.metrics import Floats, Ints
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import CHANGES
from controlplane.evals.suite import Fairness, Gate, Robustness, Suite
from controlplane.packs.example import Example
from controlplane.training.dataset import text_key
from protos.contract.digest import digest_json
from protos.contract.fields import Reader
from protos.contract.task import TaskSpec

LEAST_SLICE = 20  # cases of a slice below which nothing is said of it
MOST_IDS = 1000
_SLICE_METRICS = ("accuracy", "macro_f1", "mean_cost")
_TIMED = 200  # texts sent one at a time for the latency figure


@dataclass(frozen=True, slots=True)
class Value:
    """A metric's value, with an interval where it has one."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate asked and found; ``passed`` is None when it is not applicable."""

    text: str
    passed: bool | None
    found: float | None
    low: float | None
    high: float | None
    needed: float


@dataclass(frozen=True, slots=True)
class Regression:
    """A case the primary had right and the candidate has wrong."""

    text: str
    label: str
    slice: str
    primary_decision: str
    candidate_decision: str
    added_cost: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything an approver is shown.

    Attributes:
        values: By part, model and metric.
        slices: The candidate's, by part and slice: cases and metrics.
        regressions: Cases the primary had right and the candidate has wrong; ``regression_ids`` names them by the keys
            of their texts, as the fence does, and ``worst_regressions`` shows three.
    """

    suite_digest: str
    candidate: str
    primary: str | None
    sizes: Mapping[str, int]
    values: Mapping[str, Mapping[str, Mapping[str, Value]]]
    gates: tuple[GateResult, ...]
    accepted: bool
    regressions_share: float | None
    worst_regressions: tuple[Regression, ...]
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    regressions: int | None = None
    regression_ids: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The evaluation's name."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "suite_digest": self.suite_digest,
            "candidate": self.candidate,
            "primary": self.primary,
            "sizes": dict(self.sizes),
            "values": {
                part: {model: {name: asdict(value) for name, value in found.items()} for model, found in models.items()}
                for part, models in self.values.items()
            },
            "gates": [asdict(gate) for gate in self.gates],
            "accepted": self.accepted,
            "regressions_share": self.regressions_share,
            "worst_regressions": [asdict(case) for case in self.worst_regressions],
            "slices": {part: {name: dict(found) for name, found in by.items()} for part, by in self.slices.items()},
            "regressions": self.regressions,
            "regression_ids": list(self.regression_ids),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read an evaluation; raises FieldInvalid, or TypeError or KeyError for a malformed inner record."""
        given = dict(value)
        share, regressions = given.pop("regressions_share"), given.pop("regressions", None)
        read = Reader(given, "evaluation")
        evaluation = cls(
            suite_digest=read.text("suite_digest"),
            candidate=read.text("candidate"),
            primary=read.maybe_text("primary"),
            sizes=read.object("sizes"),
            values={
                part: {
                    model: {
                        name: Value(v["value"], None if v["interval"] is None else Interval(**v["interval"]))
                        for name, v in found.items()
                    }
                    for model, found in models.items()
                }
                for part, models in read.object("values").items()
            },
            gates=tuple(GateResult(**gate) for gate in read.items("gates")),
            accepted=read.flag("accepted"),
            regressions_share=share,
            worst_regressions=tuple(Regression(**case) for case in read.items("worst_regressions")),
            slices=read.object("slices", {}),
            regressions=regressions,
            regression_ids=tuple(read.items("regression_ids", [])),
        )
        read.done()
        return evaluation


class _Measured:
    """One model's answers on one part, and their metrics under every resampling."""

    def __init__(self, task: TaskSpec, examples: Sequence[Example], scores: Scores, p99: float | None) -> None:
        labels = np.array([task.labels.index(example.label) for example in examples])
        self.answers = Answers.of(task, labels, scores.probabilities, scores.decisions)
        self.p99 = p99

    def metric(self, name: str, weights: Floats | None, index: Ints | None = None) -> Floats:
        """Return a metric's value in every round, of some of the cases where ``index`` says so, shape [rounds]."""
        if index is None:
            return registry.find(name).value(self.answers, weights)
        return registry.find(name).value(self.answers.take(index), None if weights is None else weights[:, index])

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


def evaluate(
    task: TaskSpec,
    suite: Suite,
    parts: Mapping[str, Sequence[Example]],
    training: Sequence[Example],
    candidate: str,
    primary: str | None,
    bundles: Path,
    *,
    cause: str = "operator",
    is_partial: bool = False,
    command: Sequence[str] = WORKER,
) -> Evaluation:
    """Compare a candidate with the primary and the control on every part, and apply the suite.

    Args:
        cause: Why the candidate was made, one of ``suite.CAUSES``.
        is_partial: What the suite asks of parts that are not given is left open, instead of refusing them.
    Raises:
        EngineFailed: The worker could not be started, loaded or asked.
        ValueError: A part the suite names is missing or empty.
    """
    needed = {gate.part for gate in suite.gates} | {suite.regressions_part}
    needed |= {one.part for one in suite.robustness} | {one.part for one in suite.fairness}
    missing = sorted(part for part in (set() if is_partial else needed) | set(parts) if not parts.get(part))
    if missing:
        raise ValueError(f"parts.{missing[0]} is missing or empty, expected examples")
    digests = {"candidate": candidate} | ({"primary": primary} if primary is not None else {})
    measured: dict[str, dict[str, _Measured]] = {part: {} for part in parts}
    timed = {gate.part for gate in suite.gates if gate.metric == "p99_ms"}
    with Engine(bundles, command) as worker:
        for model, digest in digests.items():
            worker.load(digest)
            for part, examples in parts.items():
                inputs = [input_of(task, example.text) for example in examples]
                scores = worker.score(digest, inputs)
                p99 = None
                if part in timed:
                    alone = worker.score(digest, inputs[:_TIMED], window=1)
                    p99 = float(np.quantile(alone.latencies_ms, 0.99))
                measured[part][model] = _Measured(task, examples, scores, p99)
        robust = [
            _robust(one, task, worker, candidate, parts[one.part], measured)
            for one in suite.robustness
            if one.part in parts
        ]
    control = fit_control(task, training, task.labels)
    for part, examples in parts.items():
        probabilities = control.probabilities([example.text for example in examples])
        decisions = np.array([task.decide(row) for row in probabilities.tolist()], dtype=np.int64)
        nothing = np.zeros(len(examples))
        measured[part]["control"] = _Measured(task, examples, Scores(probabilities, decisions, nothing), None)

    draws = {part: resample_weights(len(examples), suite.rounds, suite.seed) for part, examples in parts.items()}
    values = {
        part: {model: one.values(_shown(suite, one), draws[part], suite.confidence) for model, one in models.items()}
        for part, models in measured.items()
    }
    gates = [
        _judge(gate, suite, measured[gate.part], draws[gate.part], cause, _inside(parts[gate.part], gate.slice))
        for gate in suite.gates
        if gate.part in parts
    ]
    gates += robust
    gates += [
        _fair(one, measured[one.part]["candidate"], parts[one.part]) for one in suite.fairness if one.part in parts
    ]
    share: float | None = None
    worst: tuple[Regression, ...] = ()
    ids: list[str] = []
    if primary is not None:
        part = suite.regressions_part
        share, worst, ids = _regressions(task, parts[part], measured[part]["primary"], measured[part]["candidate"])
    gates.append(
        GateResult(
            f"{suite.regressions_part} regressions: at most {suite.regressions_max_share:g} of cases",
            None if share is None else share <= suite.regressions_max_share,
            share,
            None,
            None,
            suite.regressions_max_share,
        )
    )
    return Evaluation(
        suite_digest=suite.digest,
        candidate=candidate,
        primary=primary,
        sizes={part: len(examples) for part, examples in parts.items()},
        values=values,
        gates=tuple(gates),
        accepted=all(gate.passed is not False for gate in gates),
        regressions_share=share,
        worst_regressions=worst,
        slices={part: _slices(examples, measured[part]["candidate"]) for part, examples in parts.items()},
        regressions=None if primary is None else len(ids),
        regression_ids=tuple(ids[:MOST_IDS]),
    )


def _inside(examples: Sequence[Example], name: str | None) -> Ints | None:
    """Return which cases are of a slice; None for all of them."""
    return None if name is None else np.flatnonzero([example.slice == name for example in examples])


def _slices(examples: Sequence[Example], candidate: _Measured) -> dict[str, dict[str, Any]]:
    """Return the candidate's metrics on every slice that is large enough to say anything."""
    found: dict[str, dict[str, Any]] = {}
    for name, n in sorted(Counter(example.slice for example in examples if example.slice).items()):
        index = _inside(examples, name)
        found[name] = {"cases": n}
        if n >= LEAST_SLICE:
            values = {metric: float(candidate.metric(metric, None, index)[0]) for metric in _SLICE_METRICS}
            found[name] |= {metric: value for metric, value in values.items() if np.isfinite(value)}
    return found


def _robust(
    asked: Robustness,
    task: TaskSpec,
    worker: Engine,
    candidate: str,
    examples: Sequence[Example],
    measured: Mapping[str, Mapping[str, _Measured]],
) -> GateResult:
    """Change every text in a way that means nothing and count the decisions that change with it."""
    if len(task.fields) > 1:
        raise ValueError(
            f"suite.robustness asks for {asked.change} of rows of named fields, expected a task of one text"
        )
    changed = [input_of(task, CHANGES[asked.change](example.text)) for example in examples]
    before = measured[asked.part]["candidate"].answers.decisions
    share = float((worker.score(candidate, changed).decisions != before).mean())
    text = f"{asked.part} {asked.change}: at most {asked.max_changed:g} of decisions change"
    return GateResult(text, share <= asked.max_changed, share, None, None, asked.max_changed)


def _fair(asked: Fairness, candidate: _Measured, examples: Sequence[Example]) -> GateResult:
    """Compare the worst slice with the best; a slice too small or without a value cannot be called fair."""
    found = []
    for name in asked.slices:
        index = _inside(examples, name)
        assert index is not None
        is_enough = len(index) >= LEAST_SLICE
        found.append(float(candidate.metric(asked.metric, None, index)[0]) if is_enough else np.nan)
    text = f"{asked.part} {asked.metric} over {', '.join(asked.slices)}: worst at least {asked.min_ratio:g} of best"
    if not np.isfinite(found).all() or max(found) <= 0:
        return GateResult(text, False, None, None, None, asked.min_ratio)
    ratio = min(found) / max(found)
    return GateResult(text, ratio >= asked.min_ratio, ratio, min(found), max(found), asked.min_ratio)


def _judge(
    gate: Gate,
    suite: Suite,
    models: Mapping[str, _Measured],
    weights: Floats,
    cause: str,
    index: Ints | None,
) -> GateResult:
    ours = models["candidate"]
    if gate.when not in (None, cause):
        needed = next(bound for bound in (gate.margin, gate.min, gate.max) if bound is not None)
        return GateResult(f"{gate.text} (asked of {gate.when} only)", None, None, None, None, needed)
    if gate.vs is None or gate.margin is None:
        found = ours.p99 if gate.metric == registry.LATENCY else float(ours.metric(gate.metric, None, index)[0])
        assert found is not None
        # NaN, a metric without a value on these cases, passes no bound.
        passed = found >= gate.min if gate.min is not None else gate.max is not None and found <= gate.max
        bound = gate.min if gate.min is not None else gate.max
        assert bound is not None
        return GateResult(gate.text, passed, found if np.isfinite(found) else None, None, None, bound)
    rival = models.get(gate.vs)
    if rival is None:
        return GateResult(gate.text + " (not applicable: no primary)", None, None, None, None, gate.margin)
    sign = 1 if registry.higher_is_better(gate.metric) else -1
    advantage, drawn = (
        sign * (ours.metric(gate.metric, w, index) - rival.metric(gate.metric, w, index)) for w in (None, weights)
    )
    span = interval(drawn, suite.confidence)
    if not np.isfinite([advantage[0], span.low]).all():
        return GateResult(gate.text, False, None, None, None, gate.margin)
    return GateResult(gate.text, span.low >= gate.margin, float(advantage[0]), span.low, span.high, gate.margin)


def _shown(suite: Suite, measured: _Measured) -> list[str]:
    """Name what is worth showing: the usual metrics and whatever a gate asks."""
    asked = [gate.metric for gate in suite.gates if gate.metric != registry.LATENCY]
    return list(dict.fromkeys([named.text for named in registry.usual(measured.answers)] + asked))


def _regressions(
    task: TaskSpec, examples: Sequence[Example], primary: _Measured, candidate: _Measured
) -> tuple[float, tuple[Regression, ...], list[str]]:
    """Find cases the primary labelled right and the candidate wrong: their share, the three that cost most, all ids."""
    before, after = primary.answers, candidate.answers
    assert before.decisions is not None and after.decisions is not None
    found = np.flatnonzero((before.predicted == before.labels) & (after.predicted != after.labels))
    added = after.costs - before.costs
    worst = sorted(found.tolist(), key=lambda i: (-added[i], i))[:3]
    return (
        len(found) / len(examples),
        tuple(
            Regression(
                text=examples[i].text[:300],
                label=examples[i].label,
                slice=examples[i].slice,
                primary_decision=task.decisions[before.decisions[i]],
                candidate_decision=task.decisions[after.decisions[i]],
                added_cost=float(added[i]),
            )
            for i in worst
        ),
        [text_key(examples[i].text) for i in found.tolist()],
    )
