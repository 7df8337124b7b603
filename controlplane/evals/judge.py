"""What a suite's gates say of what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from controlplane.evals import registry
from controlplane.evals.bootstrap import interval
from controlplane.evals.engine import Scores
from controlplane.evals.engines import Engines
from controlplane.evals.evaluation import GateResult, Regression
from controlplane.evals.gateway_trial import Trial
from controlplane.evals.inputs import columns_of, input_of
from controlplane.evals.measured import LEAST_SLICE, Measured, inside
from controlplane.evals.metrics import Floats, Ints
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import CHANGES, answers_to_changed, hostile, is_let_in, share_changed
from controlplane.evals.suite import LIVE, Callers, Contract, Fairness, Gate, Robustness, Suite
from controlplane.packs.example import Example
from controlplane.training.dataset import text_key
from protos import decide_pb2
from protos.contract.task import TaskSpec, render

HIDDEN = "a case of live traffic: its text stays out of what is kept for ever"
MOST_CHANGED = 200  # cases that are asked again: an evaluation shares its machine with callers


def judge(
    gate: Gate,
    suite: Suite,
    models: Mapping[str, Measured],
    weights: Floats,
    cause: str,
    index: Ints | None,
) -> GateResult:
    """Apply one gate to the cases of its slice, ``index``; None: to all of the part."""
    ours = models["candidate"]
    if gate.when not in (None, cause):
        return GateResult(f"{gate.text} (asked of {gate.when} only)", None, None, None, None, gate.bound)
    if gate.vs is None or gate.margin is None:
        found = ours.p99 if gate.metric == registry.LATENCY else float(ours.metric(gate.metric, None, index)[0])
        assert found is not None
        # NaN, a metric without a value on these cases, passes no bound.
        passed = found >= gate.min if gate.min is not None else gate.max is not None and found <= gate.max
        return GateResult(gate.text, passed, found if np.isfinite(found) else None, None, None, gate.bound)
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


@dataclass(frozen=True, slots=True)
class Changed:
    """Cases of a part that were changed in one way, and what the candidate made of them."""

    inputs: Sequence[decide_pb2.Input]
    scores: Scores

    @classmethod
    def asked(
        cls, change: str, task: TaskSpec, worker: Engines, candidate: str, examples: Sequence[Example]
    ) -> "Changed":
        """Change cases and ask; raises EngineFailed."""
        inputs = [input_of(task, example.text) for example in examples[:MOST_CHANGED]]
        changed = [CHANGES[change](task, given) for given in inputs]
        return cls(changed, answers_to_changed(worker, candidate, task, inputs, changed))


def robust(asked: Robustness, task: TaskSpec, changed: Changed, answered: Measured) -> GateResult:
    """Count the decisions that change, a refusal as a change, or take a metric of the changed cases."""
    known, scores = answered.answers, changed.scores
    refused = f"; {len(scores.refused)} refused" if scores.refused else ""
    if asked.metric is None:
        assert known.decisions is not None and asked.max_changed is not None
        share = share_changed(known.decisions[: len(scores.decisions)], scores)
        text = f"{asked.part} {asked.change}: at most {asked.max_changed:g} of decisions change{refused}"
        return GateResult(text, share <= asked.max_changed, share, None, None, asked.max_changed)
    columns = columns_of(task, [render(task, given) for given in changed.inputs])
    labels = known.labels[: len(scores.decisions)]
    answers = replace(Answers.of(task, labels, scores.probabilities, scores.decisions), columns=columns)
    found = float(registry.find(asked.metric).value(answers)[0])
    bound = next(bound for bound in (asked.min, asked.max) if bound is not None)
    side, passed = ("at most", found <= bound) if asked.min is None else ("at least", found >= bound)
    text = f"{asked.part} {asked.change}: {asked.metric} {side} {bound:g}{refused}"
    return GateResult(text, passed, found if np.isfinite(found) else None, None, None, bound)


def within_contract(
    asked: Contract, task: TaskSpec, worker: Engines, candidate: str, examples: Sequence[Example]
) -> GateResult:
    """Count hostile inputs without an answer of the task's, or with one where the task does not let them in."""
    pairs = [
        (given, one)
        for given in (input_of(task, example.text) for example in examples[: asked.cases])
        for one in hostile(task, given)
    ]
    text = f"{asked.part}: each of {len(pairs)} hostile inputs is answered, or refused as the task says"
    if not pairs:
        return GateResult(text, None, None, None, None, 0)
    inputs, changed = ([pair[i] for pair in pairs] for i in (0, 1))
    refused = set(answers_to_changed(worker, candidate, task, inputs, changed).refused)
    share = float(np.mean([is_let_in(task, one) == (i in refused) for i, one in enumerate(changed)]))
    return GateResult(text, share == 0, share, None, None, 0)


def unrefused(part: str, candidate: Measured, cases: int) -> GateResult:
    """Fail a candidate whose engine refuses a case of the suite's own, whatever its fallback would be worth."""
    return GateResult(f"{part}: no case is refused", False, candidate.refused / cases, None, None, 0)


def fair(asked: Fairness, candidate: Measured, examples: Sequence[Example]) -> GateResult:
    """Compare the worst slice with the best; a slice too small or without a value cannot be called fair."""
    found = []
    for name in asked.slices:
        index = inside(examples, name)
        assert index is not None
        is_enough = len(index) >= LEAST_SLICE
        found.append(float(candidate.metric(asked.metric, None, index)[0]) if is_enough else np.nan)
    text = f"{asked.part} {asked.metric} over {', '.join(asked.slices)}: worst at least {asked.min_ratio:g} of best"
    if not np.isfinite(found).all() or max(found) <= 0:
        return GateResult(text, False, None, None, None, asked.min_ratio)
    ratio = min(found) / max(found)
    return GateResult(text, ratio >= asked.min_ratio, ratio, min(found), max(found), asked.min_ratio)


def callers(asked: Callers, seen: Trial) -> list[GateResult]:
    """Judge what callers of a real gateway saw, each with its budget: an engine's own answer in time, or a fallback."""
    budget = f"{seen.budget_ms:g} ms"
    found = []
    if asked.min_in_time is not None:
        share = float(seen.decided_in_time.mean())
        text = f"{asked.part} at the gateway: at least {asked.min_in_time:g} decided within {budget}"
        found.append(GateResult(text, share >= asked.min_in_time, share, None, None, asked.min_in_time))
    if asked.max_fallbacks is not None:
        # A call that failed got not even a fallback.
        share = float((seen.fell_back | (seen.decisions < 0)).mean())
        text = f"{asked.part} at the gateway: at most {asked.max_fallbacks:g} answered by the fallback, given {budget}"
        found.append(GateResult(text, share <= asked.max_fallbacks, share, None, None, asked.max_fallbacks))
    return found


def shown(suite: Suite, measured: Measured) -> list[str]:
    """Name what is worth showing: the usual metrics and whatever a gate asks."""
    asked = [gate.metric for gate in suite.gates if gate.metric != registry.LATENCY]
    return list(dict.fromkeys([named.text for named in registry.usual(measured.answers)] + asked))


@dataclass(frozen=True, slots=True)
class Lost:
    """Cases the primary had right and the candidate has wrong: their share, the three that cost most, all ids."""

    share: float
    worst: tuple[Regression, ...]
    ids: tuple[str, ...]


def regressions_gate(suite: Suite, share: float | None) -> GateResult:
    """Judge how many cases were lost; None: there is no primary that had them."""
    most = suite.regressions_max_share
    text = f"{suite.regressions_part} regressions: at most {most:g} of cases"
    return GateResult(text, None if share is None else share <= most, share, None, None, most)


def regressions(task: TaskSpec, examples: Sequence[Example], primary: Measured, candidate: Measured) -> Lost:
    """Find cases the primary labelled right and the candidate wrong."""
    before, after = primary.answers, candidate.answers
    assert before.decisions is not None and after.decisions is not None
    found = np.flatnonzero((before.predicted == before.labels) & (after.predicted != after.labels))
    added = after.costs - before.costs
    worst = sorted(found.tolist(), key=lambda i: (-added[i], i))[:3]
    return Lost(
        len(found) / len(examples),
        tuple(
            Regression(
                text=HIDDEN if examples[i].slice == LIVE else examples[i].text[:300],
                label=examples[i].label,
                slice=examples[i].slice,
                primary_decision=task.decisions[before.decisions[i]],
                candidate_decision=task.decisions[after.decisions[i]],
                added_cost=float(added[i]),
            )
            for i in worst
        ),
        tuple(text_key(examples[i].text) for i in found.tolist()),
    )
