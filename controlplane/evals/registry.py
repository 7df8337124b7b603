"""Every metric by name, so that a suite, a report and a pack speak of the same arithmetic.

A name may carry an argument in brackets: ``f1[hate]``, ``recall_at_fpr[0.01]``. A pack adds its own with ``register``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from controlplane.errors import Unusable
from controlplane.evals import metrics
from controlplane.evals.metrics import Floats, Ints
from protos.contract.task import TaskSpec

_NAME = re.compile(r"(\w+)(?:\[([^\[\]]+)\])?")


class MetricUnknown(Unusable):
    """No metric goes by that name, or its argument is wrong; the message lists what there is."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model said to labelled cases: everything a metric may look at.

    Attributes:
        names: The labels, in the order of the probabilities' columns.
        labels: True labels as indices, shape [n].
        probabilities: Shape [n, labels].
        score_index: The label whose probability is the score.
        decisions: Indices of decisions, shape [n], with ``cost`` [labels, decisions]; None where costs mean nothing.
        decides_labels: The decisions are the labels, so that what was decided is what was said.
        case_weights: How many cases of the real world each one stands for, shape [n].
        columns: Other columns of the file, by name, shape [n] each: amounts, groups.
        outputs, references: Written and wanted texts, for specialists that write.
    """

    names: tuple[str, ...]
    labels: Ints
    probabilities: Floats
    score_index: int
    decisions: Ints | None
    cost: Floats | None
    case_weights: Floats
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    decides_labels: bool = False

    @classmethod
    def of(cls, task: TaskSpec, labels: Ints, probabilities: Floats, decisions: Ints) -> "Answers":
        """Build the answers of a task's own labels, every case counting once."""
        return cls(
            names=task.labels,
            labels=labels,
            probabilities=probabilities,
            score_index=task.score_index,
            decisions=decisions,
            cost=np.array(task.cost, dtype=np.float64),
            case_weights=np.ones(len(labels)),
            decides_labels=task.decisions == task.labels,
        )

    @property
    def predicted(self) -> Ints:
        """The label each case was given, shape [n]: the decided one where labels are decided on, else the likeliest."""
        if self.decides_labels and self.decisions is not None:
            return self.decisions
        return np.asarray(self.probabilities.argmax(1))

    @property
    def costs(self) -> Floats:
        """Cost of each decision, shape [n]."""
        assert self.cost is not None and self.decisions is not None
        return np.asarray(self.cost[self.labels, self.decisions])

    def without_decisions(self) -> "Answers":
        """Return the same answers where decisions and their costs mean nothing."""
        return replace(self, decisions=None, cost=None)

    def take(self, index: Ints) -> "Answers":
        """Return the answers to some of the cases."""
        return Answers(
            names=self.names,
            labels=self.labels[index],
            probabilities=self.probabilities[index],
            score_index=self.score_index,
            decisions=None if self.decisions is None else self.decisions[index],
            cost=self.cost,
            case_weights=self.case_weights[index],
            columns={name: [values[i] for i in index] for name, values in self.columns.items()},
            outputs=tuple(self.outputs[i] for i in index) if self.outputs else (),
            references=tuple(self.references[i] for i in index) if self.references else (),
            decides_labels=self.decides_labels,
        )

    def which(self, label: str) -> int:
        """Return a label's index; raises MetricUnknown."""
        if label not in self.names:
            raise MetricUnknown(f"label is {label!r}, expected one of {', '.join(self.names)}")
        return self.names.index(label)


# (answers, resampling weights [rounds, n] with the case weights in them, argument) -> value in every round [rounds]
Compute = Callable[[Answers, Floats, str], Floats]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        argument: What the brackets hold: "" for nothing, else "label", "rate" or a pack's own word.
        optional: Whether the brackets may be left out.
        needs_cost: Whether it speaks of decisions and their cost.
    """

    name: str
    higher_is_better: bool
    compute: Compute
    description: str
    argument: str = ""
    optional: bool = False
    needs_cost: bool = False
    needs_outputs: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A metric with its argument, ready to compute."""

    text: str
    metric: Metric
    argument: str

    @property
    def higher_is_better(self) -> bool:
        """Which way the metric points."""
        return self.metric.higher_is_better

    def suits(self, answers: Answers) -> bool:
        """Say whether the answers hold what the metric looks at."""
        if self.metric.needs_cost and answers.cost is None:
            return False
        if self.metric.argument == "label" and self.argument and self.argument not in answers.names:
            return False
        return bool(answers.outputs) or not self.metric.needs_outputs

    def value(self, answers: Answers, weights: Floats | None = None) -> Floats:
        """Return the metric in every round, shape [rounds]; NaN where it has no value. ``weights`` are draws only."""
        drawn = np.ones((1, len(answers.labels))) if weights is None else weights
        return self.metric.compute(answers, drawn * answers.case_weights, self.argument)


_METRICS: dict[str, Metric] = {}
LATENCY = "p99_ms"  # measured, not computed from answers


def register(metric: Metric) -> None:
    """Add a metric; raises MetricUnknown when its name is taken or no word."""
    if not re.fullmatch(r"\w+", metric.name) or metric.name in _METRICS or metric.name == LATENCY:
        raise MetricUnknown(f"metric is {metric.name!r}, expected a new name of letters, digits and _")
    _METRICS[metric.name] = metric


def find(text: str) -> Named:
    """Read a metric's name with its argument; raises MetricUnknown."""
    match = _NAME.fullmatch(text)
    metric = _METRICS.get(match.group(1)) if match else None
    if match is None or metric is None:
        raise MetricUnknown(f"metric is {text!r}, expected one of {', '.join(known())}")
    argument = match.group(2) or ""
    if bool(argument) != bool(metric.argument) and not (metric.optional and not argument):
        expected = f"{metric.name}[{metric.argument.upper()}]" if metric.argument else metric.name
        raise MetricUnknown(f"metric is {text!r}, expected {expected}")
    if metric.argument == "rate" and not _is_rate(argument):
        raise MetricUnknown(f"metric is {text!r}, expected a rate above 0 and below 1 in its brackets")
    return Named(text, metric, argument)


def known() -> list[str]:
    """List the metrics as a suite may name them."""
    shown = [f"{m.name}[{m.argument.upper()}]" if m.argument and not m.optional else m.name for m in _METRICS.values()]
    return sorted([*shown, LATENCY])


def described() -> list[dict[str, Any]]:
    """Describe every metric for people."""
    rows = [(_METRICS[re.split(r"\W", name)[0]], name) for name in known() if name != LATENCY]
    found = [{"name": n, "higher_is_better": m.higher_is_better, "description": m.description} for m, n in rows]
    return [*found, {"name": LATENCY, "higher_is_better": False, "description": "latency of one decision at a time"}]


def higher_is_better(text: str) -> bool:
    """Say which way a metric points, latency included; raises MetricUnknown."""
    return text != LATENCY and find(text).higher_is_better


def usual(answers: Answers) -> list[Named]:
    """Return the metrics that a report shows without being asked."""
    names = ["accuracy", "macro_f1", "weighted_f1", "log_loss", "brier", "ece", "mean_cost"]
    if len(answers.names) <= 8:
        names += [f"f1[{label}]" for label in answers.names if _NAME.fullmatch(f"f1[{label}]")]
    names += ["auc", "average_precision", "recall_at_fpr[0.01]", "recall_at_fpr[0.05]", "false_safe_rate"]
    return [named for named in map(find, names) if named.suits(answers)]


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def _one(answers: Answers, argument: str) -> tuple[Any, Floats]:
    """Return one label against the rest: who is positive, and the scores; the score label without an argument."""
    index = answers.which(argument) if argument else answers.score_index
    return answers.labels == index, answers.probabilities[:, index]


def _false_safe(answers: Answers, weights: Floats, _: str) -> Floats:
    assert answers.decisions is not None
    return metrics.false_safe_rate(answers.labels, answers.decisions, answers.score_index, weights)


def _cost(answers: Answers, weights: Floats, _: str) -> Floats:
    assert answers.decisions is not None and answers.cost is not None
    return metrics.mean_cost(answers.labels, answers.decisions, answers.cost, weights)


for _metric in (
    Metric("accuracy", True, lambda a, w, _: metrics.accuracy(a.labels, a.predicted, w), "share predicted right"),
    Metric(
        "macro_f1",
        True,
        lambda a, w, _: metrics.macro_f1(a.labels, a.predicted, len(a.names), w),
        "mean F1 over the labels",
    ),
    Metric(
        "weighted_f1",
        True,
        lambda a, w, _: metrics.weighted_f1(a.labels, a.predicted, len(a.names), w),
        "F1 weighted by how often each label is true",
    ),
    Metric("f1", True, lambda a, w, x: metrics.f1_of(a.labels, a.predicted, a.which(x), w), "F1 of a label", "label"),
    Metric(
        "recall",
        True,
        lambda a, w, x: metrics.recall_of(a.labels, a.predicted, a.which(x), w),
        "share of a label's cases found",
        "label",
    ),
    Metric(
        "precision",
        True,
        lambda a, w, x: metrics.precision_of(a.labels, a.predicted, a.which(x), w),
        "share of a label's predictions that are right",
        "label",
    ),
    Metric(
        "auc", True, lambda a, w, x: metrics.auc(*_one(a, x), w), "area under the ROC curve", "label", optional=True
    ),
    Metric(
        "average_precision",
        True,
        lambda a, w, x: metrics.average_precision(*_one(a, x), w),
        "area under the precision-recall curve",
        "label",
        optional=True,
    ),
    Metric(
        "recall_at_fpr",
        True,
        lambda a, w, x: metrics.recall_at_fpr(*_one(a, ""), float(x), w),
        "share of the score label found while at most this share of the rest is flagged",
        "rate",
    ),
    Metric("log_loss", False, lambda a, w, _: metrics.log_loss(a.labels, a.probabilities, w), "nats"),
    Metric("brier", False, lambda a, w, _: metrics.brier(a.labels, a.probabilities, w), "squared error, 0 to 2"),
    Metric("ece", False, lambda a, w, _: metrics.ece(a.labels, a.probabilities, w), "expected calibration error"),
    Metric("mean_cost", False, _cost, "mean cost of the decisions", needs_cost=True),
    Metric("false_safe_rate", False, _false_safe, "score label given the least strict decision", needs_cost=True),
):
    register(_metric)
