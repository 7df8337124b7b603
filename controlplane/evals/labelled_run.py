"""Measure bundles on any labelled file: metrics with intervals, slices, calibration, what callers would see."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.datasets.rows import Case, Columns, DataInvalid, Refused, read_cases
from controlplane.evals import registry
from controlplane.evals.bootstrap import interval, resampled
from controlplane.evals.control import fit_control
from controlplane.evals.engine import Scores
from controlplane.evals.engines import Engines
from controlplane.evals.gateway_trial import GatewayTrial, Trial
from controlplane.evals.metrics import Floats, Ints
from controlplane.evals.recorded import read_answers
from controlplane.evals.registry import Answers, Named
from controlplane.evals.robustness import HUGE_BYTES, changed_inputs, huge
from controlplane.evals.stability import stability
from controlplane.packs.example import Example
from protos import decide_pb2
from protos.contract.bundle import BundleStore
from protos.contract.digest import digest_bytes
from protos.contract.servers import RemoteSettings
from protos.contract.task import TaskSpec

CANDIDATE, RIVAL, CONTROL = "bundle", "rival", "control"
LEAST_SLICE = 20  # cases; a smaller slice is counted and not judged
TIMED = 200
MOST_LEARNED = 2000  # cases that stability is measured from
MOST_HUGE = 10  # calls of 100 kB
BINS = 10
Progress = Callable[[float, str], None]  # share done, what is being done


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """What to measure, on what.

    Attributes:
        bundle: Digest; ``rival`` is another bundle to compare it with, case by case.
        groups: Judge by coarser labels: group to the bundle's labels in it, whose probabilities add up.
        train: A labelled file of the same columns that the classical control is fitted on.
        answers: Recorded answers of other models, by what to call them.
        metrics: Names beyond the usual ones.
        robustness_cases: How many cases are asked again in every way of ``robustness.CHANGES``, 0 for none.
        gateway_cases: How many cases are also asked through a real gateway, 0 for none.
        budget_us: What each caller of the gateway gives; None: the task's own deadline.
        quarantine: Take rows that cannot be used aside instead of refusing the file.
        engines: Servers elsewhere that are declared, for bundles that belong there.
    """

    bundles_dir: Path
    bundle: str
    data: Path
    columns: Columns = field(default_factory=Columns)
    rival: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train: Path | None = None
    answers: Mapping[str, Path] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    rounds: int = 1000
    confidence: float = 0.95
    seed: int = 0
    robustness_cases: int = 0
    gateway_cases: int = 200
    budget_us: int | None = None
    front: str = "auto"
    quarantine: bool = False
    engines: tuple[RemoteSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class _Changed:
    """What a bundle answers to cases that were changed: which ones, shape [n]."""

    change: str
    places: Ints
    scores: Scores


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels that cases are judged by, and how the bundle's own map onto them."""

    names: tuple[str, ...]
    matrix: Floats | None  # [bundle's labels, groups]; None without groups
    score_index: int

    @classmethod
    def of(cls, task: TaskSpec, groups: Mapping[str, tuple[str, ...]]) -> "_Labels":
        """Check that the groups part the task's labels; raises DataInvalid."""
        if not groups:
            return cls(task.labels, None, task.score_index)
        said = Counter(label for members in groups.values() for label in members)
        if unknown := sorted(set(said) - set(task.labels)):
            raise DataInvalid(f"group label is {unknown[0]!r}, expected one of {', '.join(task.labels)}")
        odd = [label for label in task.labels if said[label] != 1]
        if odd:
            raise DataInvalid(f"label {odd[0]!r} is in {said[odd[0]]} groups, expected in exactly one")
        matrix = np.array([[float(label in members) for members in groups.values()] for label in task.labels])
        return cls(tuple(groups), matrix, int(matrix[task.score_index].argmax()))

    def answers(self, task: TaskSpec, cases: Sequence[Case], labels: Ints, scores: Scores) -> Answers:
        """Put a model's scores and the cases together."""
        columns = {name: [case.kept[name] for case in cases] for name in cases[0].kept}
        return Answers(
            names=self.names,
            labels=labels,
            probabilities=scores.probabilities if self.matrix is None else scores.probabilities @ self.matrix,
            score_index=self.score_index,
            decisions=scores.decisions if self.matrix is None else None,
            cost=np.array(task.cost, dtype=np.float64) if self.matrix is None else None,
            case_weights=np.array([case.weight for case in cases]),
            columns=columns,
        )


def run_labelled(asked: LabelledRun, progress: Progress = lambda share, what: None) -> dict[str, Any]:
    """Measure and return a JSON-able report.

    Raises:
        DataInvalid: The file, its columns or its labels cannot be used.
        BundleInvalid: A bundle is missing or altered, or the two answer different tasks.
        MetricUnknown: A metric's name is wrong.
        EngineFailed: The worker, server or gateway did not start or answer.
    """
    store = BundleStore(asked.bundles_dir)
    task = store.manifest(asked.bundle).task
    if asked.rival is not None and store.manifest(asked.rival).task.labels != task.labels:
        raise DataInvalid(f"bundle {asked.rival} has other labels than {asked.bundle}, expected the same")
    labels = _Labels.of(task, asked.groups)
    extra = [registry.find(name) for name in asked.metrics]
    aside: list[Refused] = []
    cases = read_cases(
        asked.data, task, asked.columns, labels.names, set_aside=aside.append if asked.quarantine else None
    )
    truth = np.array([labels.names.index(case.label) for case in cases])
    learned = _learned(asked, task, labels)
    models, changed, about, moved = _scores(asked, task, cases, learned, progress)
    others, recorded = _recorded(asked, task, cases)
    answers = {name: labels.answers(task, cases, truth, scores) for name, scores in (models | others).items()}
    if asked.train is not None:
        control = _control(asked, task, labels, cases, learned)
        answers[CONTROL] = _control_answers(task, labels, cases, truth, control)
    named = [*registry.usual(answers[CANDIDATE]), *(one for one in extra if one.suits(answers[CANDIDATE]))]
    named = list({one.text: one for one in named}.values())
    progress(0.0, "intervals")
    return {
        "specialist": task.name,
        "bundle": asked.bundle,
        "rival": asked.rival,
        "data": {
            "file": str(asked.data),
            "digest": digest_bytes(asked.data.read_bytes()),
            "cases": len(cases),
            "set_aside": [asdict(one) for one in aside],
            "labels": dict(Counter(case.label for case in cases).most_common()),
            "weighted": asked.columns.weight is not None,
        },
        "bootstrap": {"rounds": asked.rounds, "confidence": asked.confidence, "seed": asked.seed},
        "models": {name: _values(asked, named, one) for name, one in answers.items()},
        "differences": {
            name: _differences(asked, named, answers[CANDIDATE], one)
            for name, one in answers.items()
            if name != CANDIDATE
        },
        "slices": {
            column: _slices(asked, named, answers[CANDIDATE], [case.slices[column] for case in cases])
            for column in (*asked.columns.slices, *asked.columns.bands)
        },
        "robustness": [
            {
                "change": one.change,
                "cases": len(one.places),
                "decisions_changed": float((one.scores.decisions != models[CANDIDATE].decisions[one.places]).mean()),
                "metrics": _values(
                    asked, named, labels.answers(task, [cases[i] for i in one.places], truth[one.places], one.scores)
                ),
            }
            for one in changed
        ],
        "calibration": _calibration(answers[CANDIDATE]),
        "confusion": {"labels": list(labels.names), "counts": _confusion(answers[CANDIDATE])},
        "recorded": recorded,
        "stability": moved,
        **about,
        "gateway": through_gateway(asked, task, [case.given for case in cases], answers[CANDIDATE], progress)
        if asked.gateway_cases
        else None,
    }


def _scores(
    asked: LabelledRun, task: TaskSpec, cases: Sequence[Case], learned: Sequence[Case], progress: Progress
) -> tuple[dict[str, Scores], list[_Changed], dict[str, Any], dict[str, Any] | None]:
    """Return what bundles answer, also to changed cases, where and how fast, and how far cases are from the learned."""
    inputs = [case.given for case in cases]
    digests = {CANDIDATE: asked.bundle} | ({RIVAL: asked.rival} if asked.rival else {})
    models, moved = {}, None
    with Engines(asked.bundles_dir, asked.engines) as worker:
        for name, digest in digests.items():
            worker.load(digest)
            models[name] = worker.score(digest, inputs, progress=lambda n, name=name: progress(n / len(inputs), name))  # type: ignore[misc]
        alone = worker.score(asked.bundle, inputs[:TIMED], window=1).latencies_ms
        changed = _changed(asked, task, worker, inputs, progress)
        if learned:
            drawn = np.random.default_rng(asked.seed).permutation(len(learned))[:MOST_LEARNED]
            before = [learned[i] for i in np.sort(drawn)]
            scores = worker.score(asked.bundle, [case.given for case in before]).probabilities[:, task.score_index]
            ours = models[CANDIDATE].probabilities[:, task.score_index]
            moved = stability(task, [case.text for case in before], scores, [case.text for case in cases], ours)
        speed = {"timed_cases": len(alone), "latency_ms": quantiles(alone)}
        about = {"worker": speed, "elsewhere": worker.elsewhere_of(digests)}
    return models, changed, about, moved


def _changed(
    asked: LabelledRun, task: TaskSpec, worker: Engines, inputs: Sequence[decide_pb2.Input], progress: Progress
) -> list[_Changed]:
    """Ask some of the cases again, changed; one without an answer ends the run."""
    drawn = _drawn(asked, len(inputs), asked.robustness_cases)
    found = []
    for change, places, made in changed_inputs(task, [inputs[i] for i in drawn]):
        progress(0.0, change)
        found.append(_Changed(change, drawn[places], worker.score(asked.bundle, made)))
    return found


def _drawn(asked: LabelledRun, n: int, most: int) -> Ints:
    return np.sort(np.random.default_rng(asked.seed).permutation(n)[:most])


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


def _learned(asked: LabelledRun, task: TaskSpec, labels: _Labels) -> list[Case]:
    """Read what the control is fitted on, and stability measured from; nothing where no file is named."""
    if asked.train is None:
        return []
    # The control may be fitted on the bundle's own labels or on the groups, whichever the file has.
    known = tuple(dict.fromkeys((*task.labels, *labels.names)))
    return read_cases(asked.train, task, asked.columns, known, set_aside=(lambda _: None) if asked.quarantine else None)


def _control(
    asked: LabelledRun, task: TaskSpec, labels: _Labels, cases: Sequence[Case], rows: Sequence[Case]
) -> Scores:
    names = task.labels if all(row.label in task.labels for row in rows) else labels.names
    if any(row.label not in names for row in rows):
        raise DataInvalid(f"{asked.train} mixes labels of the task and groups, expected one or the other")
    model = fit_control(task, [Example(row.text, row.label) for row in rows], names)
    found = model.probabilities([case.text for case in cases])
    decisions = np.zeros(len(cases), dtype=np.int64)
    if names == task.labels:
        decisions = np.array([task.decide(row) for row in found.tolist()], dtype=np.int64)
    return Scores(found, decisions, np.zeros(len(cases)))


def _control_answers(task: TaskSpec, labels: _Labels, cases: Sequence[Case], truth: Ints, scores: Scores) -> Answers:
    is_grouped = labels.matrix is not None and scores.probabilities.shape[1] == len(labels.names) != len(task.labels)
    direct = _Labels(labels.names, None, labels.score_index) if is_grouped else labels
    made = direct.answers(task, cases, truth, scores)
    return made if labels.matrix is None else made.without_decisions()


def _values(asked: LabelledRun, named: Sequence[Named], answers: Answers) -> dict[str, Any]:
    n = len(answers.labels)
    drawn = resampled(
        n, asked.rounds, asked.seed, lambda weights: np.stack([one.value(answers, weights) for one in named])
    )
    found = {}
    for one, rounds in zip(named, drawn, strict=True):
        span = interval(rounds, asked.confidence)
        found[one.text] = {"value": _known(one.value(answers)[0]), "low": _known(span.low), "high": _known(span.high)}
    return found


def _differences(asked: LabelledRun, named: Sequence[Named], ours: Answers, other: Answers) -> dict[str, Any]:
    """Return how much better the bundle is, positive where it is, whichever way a metric points."""
    both = [one for one in named if one.suits(other)]

    def advantage(weights: Floats | None) -> Floats:
        signs = [1 if one.higher_is_better else -1 for one in both]
        values = [one.value(ours, weights) - one.value(other, weights) for one in both]
        return np.stack([sign * value for sign, value in zip(signs, values, strict=True)])

    drawn = resampled(len(ours.labels), asked.rounds, asked.seed, advantage)
    found = {}
    for one, value, rounds in zip(both, advantage(None)[:, 0], drawn, strict=True):
        span = interval(rounds, asked.confidence)
        found[one.text] = {"advantage": _known(value), "low": _known(span.low), "high": _known(span.high)}
    return found


def _slices(
    asked: LabelledRun, named: Sequence[Named], answers: Answers, values: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    for value, n in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])):
        index = np.flatnonzero(np.array([one == value for one in values]))
        shown = _values(asked, named, answers.take(index)) if n >= LEAST_SLICE else {}
        found.append({"value": value, "cases": n, "metrics": shown})
    return found


def _calibration(answers: Answers) -> list[dict[str, Any]]:
    """Compare said and found in ten bins of the predicted label's probability."""
    said = answers.probabilities.max(1)
    right = answers.predicted == answers.labels
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    found = []
    for i in range(BINS):
        inside = bins == i
        weight = answers.case_weights[inside]
        found.append(
            {
                "from": i / BINS,
                "to": (i + 1) / BINS,
                "cases": int(inside.sum()),
                "said": _known(np.average(said[inside], weights=weight)) if inside.any() else None,
                "right": _known(np.average(right[inside], weights=weight)) if inside.any() else None,
            }
        )
    return found


def _confusion(answers: Answers) -> list[list[int]]:
    """Count cases, rows by true label, columns by prediction."""
    counts = np.zeros((len(answers.names), len(answers.names)), dtype=np.int64)
    np.add.at(counts, (answers.labels, answers.predicted), 1)
    return [[int(n) for n in row] for row in counts]


def through_gateway(
    asked: LabelledRun,
    task: TaskSpec,
    cases: Sequence[decide_pb2.Input],
    answers: Answers | None,
    progress: Progress,
) -> dict[str, Any]:
    """Ask some cases through a real gateway, and say what callers saw; with answers, also what it cost them."""
    chosen = _drawn(asked, len(cases), asked.gateway_cases)
    inputs = [cases[i] for i in chosen]
    oversize = [one for given in inputs[:MOST_HUGE] if (one := huge(task, given)) != given]
    with GatewayTrial(asked.bundles_dir, asked.bundle, asked.front, asked.engines) as gateway:
        trial = gateway.ask(inputs, asked.budget_us or task.deadline_us, lambda n: progress(n / len(inputs), "gateway"))
        at_most = gateway.ask(oversize, asked.budget_us or task.deadline_us)
    found = {
        "cases": len(inputs),
        "budget_ms": trial.budget_ms,
        "latency_ms": quantiles(trial.latencies_ms),
        "cpu_ms": trial.cpu_ms,
        "answered_in_time": float(trial.in_time.mean()),
        "decided_in_time": float(trial.decided_in_time.mean()),
        "fallback_rate": float(trial.fell_back.mean()),
        "fallbacks": trial.fallbacks,
        "failures": trial.failures,
        "oversize": {
            "bytes": HUGE_BYTES,
            "cases": len(oversize),
            "answered": int((at_most.decisions >= 0).sum()),
            "refused": at_most.failures,
        },
    }
    if answers is not None and answers.cost is not None and (trial.decisions >= 0).any():
        found |= _cost_at_gateway(trial, answers.take(chosen))
    return found


def _cost_at_gateway(trial: Trial, answers: Answers) -> dict[str, Any]:
    """Say what the decisions cost that callers really got, fallbacks among them, and what the engine's would have."""
    assert answers.cost is not None
    got = trial.decisions >= 0
    weight = answers.case_weights[got]
    seen = answers.cost[answers.labels[got], trial.decisions[got]]
    return {
        "mean_cost": float(np.average(seen, weights=weight)),
        "mean_cost_of_engine": float(np.average(answers.costs[got], weights=weight)),
    }


def quantiles(latencies: Floats) -> dict[str, float]:
    """Return what is told of latencies."""
    p50, p90, p99 = np.quantile(latencies, [0.5, 0.9, 0.99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}


def _known(value: Any) -> float | None:
    """Return a number JSON can hold; None for a metric without a value on these cases."""
    return float(value) if np.isfinite(value) else None
