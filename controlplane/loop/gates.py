"""What a stage has shown: counts in, gate readings out; pure arithmetic on always-valid evidence.

A candidate goes on only when every gate passes, so each passes at ``alpha`` by itself (an intersection-union test:
Berger, 1982). It is rolled back when any one fails, so failing shares ``alpha`` among all gates of all stages: that is
the chance that a rollout within its limits is ever rolled back, however often the gates are read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.detectors.sequential import (
    Difference,
    Paired,
    Sample,
    Share,
    lower_bound,
    sample_missing,
    upper_bound,
)
from controlplane.domain.rollout import GateReading, Verdict
from controlplane.settings import RolloutSettings
from protos.contract.task import TaskSpec

SHADOW_GATES = ("shadow_unanswered", "shadow_late", "shadow_disagreement", "shadow_cost", "shadow_mistakes")
CANARY_GATES = ("canary_unanswered", "canary_late", "canary_cost", "canary_mistakes")


@dataclass(frozen=True, slots=True)
class PairCount:
    """How many shadow pairs had these decisions; ``candidate`` is empty when it did not answer.

    Attributes:
        label: The outcome, None while unknown.
        is_matured: The decision is old enough for its outcome to be due: later ones favour what is known early.
    """

    primary: str
    candidate: str
    is_in_time: bool
    label: str | None
    n: int
    is_matured: bool = False


@dataclass(frozen=True, slots=True)
class ArmCount:
    """Exact counts of one arm since the stage began."""

    requests: int
    unanswered: int
    late: int


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a canary: what was counted, the cost of decisions with an outcome, mistakes of those long due."""

    count: ArmCount
    cost: Share
    mistakes: Share


def fail_alpha(limits: RolloutSettings) -> float:
    """Return the level that one gate of one stage fails at: shadow gates are read in canary stages too."""
    stages = len(limits.stages_bp)
    return limits.alpha / (len(SHADOW_GATES) * (1 + stages) + len(CANARY_GATES) * stages)


def shadow_gates(task: TaskSpec, pairs: Sequence[PairCount], limits: RolloutSettings) -> tuple[GateReading, ...]:
    """Read the paired comparison of a stage."""
    strange = {p.primary for p in pairs} | {p.candidate for p in pairs} - {""}
    if problem := _strange(task, strange):
        return tuple(_unreadable(gate, problem) for gate in SHADOW_GATES)
    n = sum(pair.n for pair in pairs)
    silent = sum(pair.n for pair in pairs if not pair.candidate)
    late = sum(pair.n for pair in pairs if pair.candidate and not pair.is_in_time)
    differ = sum(pair.n for pair in pairs if pair.candidate not in ("", pair.primary))
    known = [p for p in pairs if p.candidate and p.label in task.labels]
    cost = _paired(known, lambda label, decision: cost_share(task, label, decision))
    mistakes = _paired([p for p in known if p.is_matured], lambda label, said: float(is_mistake(task, label, said)))
    samples: tuple[Sample, ...] = (Share(silent, n), Share(late, n), Share(differ, n - silent), cost, mistakes)
    margins = (
        limits.failure_margin,
        limits.failure_margin,
        limits.disagreement_limit,
        limits.cost_margin,
        limits.mistake_margin,
    )
    return tuple(read_gate(*one, limits) for one in zip(SHADOW_GATES, samples, margins, strict=True))


def canary_gates(canary: Arm, baseline: Arm, limits: RolloutSettings) -> tuple[GateReading, ...]:
    """Compare the canary with the equal slice of the primary's traffic."""
    a, b = canary.count, baseline.count
    if min(a.requests, a.unanswered, a.late, b.requests, b.unanswered, b.late) < 0:
        problem = f"counters are below what they were when the stage began: canary {a}, baseline {b}"
        return tuple(_unreadable(gate, problem) for gate in CANARY_GATES)
    samples = (
        Difference(min(a.unanswered, a.requests), a.requests, min(b.unanswered, b.requests), b.requests),
        Difference(min(a.late, a.requests), a.requests, min(b.late, b.requests), b.requests),
        Difference(canary.cost.total, canary.cost.n, baseline.cost.total, baseline.cost.n),
        Difference(canary.mistakes.total, canary.mistakes.n, baseline.mistakes.total, baseline.mistakes.n),
    )
    margins = (limits.failure_margin, limits.failure_margin, limits.cost_margin, limits.mistake_margin)
    return tuple(read_gate(*one, limits) for one in zip(CANARY_GATES, samples, margins, strict=True))


def arm(task: TaskSpec, count: ArmCount, rows: Iterable[Any]) -> Arm:
    """Add up what an arm did.

    Args:
        rows: Its (decision, true label, matured, n).
    """
    known = list(rows)
    due = [row for row in known if row.matured]
    return Arm(
        count,
        known_share(task, known, lambda label, said: cost_share(task, label, said)),
        known_share(task, due, lambda label, said: float(is_mistake(task, label, said))),
    )


def known_share(task: TaskSpec, rows: Iterable[Any], worth: Callable[[str, str], float]) -> Share:
    """Add up what decisions were worth on their true labels.

    Args:
        rows: Of (decision, true label, n); those that are not the task's are left out.
        worth: Of (true label, decision), in 0..1.
    """
    total, n = 0.0, 0
    for row in rows:
        if row.label in task.labels and row.decision in task.decisions:
            total, n = total + worth(row.label, row.decision) * row.n, n + row.n
    return Share(min(total, float(n)), n)  # sums of shares may exceed the count by a rounding error


def read_gate(gate: str, sample: Sample, limit: float, limits: RolloutSettings) -> GateReading:
    """Hold a sample against a limit: above it beyond doubt fails, below it beyond doubt passes."""
    to_fail = fail_alpha(limits)
    value, n = sample.value, sample.n
    lower, upper = lower_bound(sample, to_fail), upper_bound(sample, limits.alpha)
    verdict = Verdict.PASS if upper <= limit else Verdict.FAIL if lower > limit else Verdict.NOT_YET
    words = f"{gate} is {value:.3f} ({lower:.3f} to {upper:.3f}), limit {limit:.3f}, from {n}"
    if verdict is not Verdict.NOT_YET:
        return GateReading(gate, verdict, value, lower, upper, limit, n, 0, words)
    side, level = ("pass", limits.alpha) if value <= limit else ("fail", to_fail)
    missing = sample_missing(sample, limit, level)
    words += f", about {missing} more to {side}" if missing is not None else ", and more of the same will not do"
    return GateReading(gate, verdict, value, lower, upper, limit, n, missing or 0, words)


def cost_share(task: TaskSpec, label: str, decision: str) -> float:
    """Return what a decision costs on a true label, as a share of the largest cost in the task."""
    largest = max(max(row) for row in task.cost) or 1.0
    return task.cost[task.labels.index(label)][task.decisions.index(decision)] / largest


def is_mistake(task: TaskSpec, label: str, decision: str) -> bool:
    """Say whether another decision would have cost less on a true label."""
    costs = task.cost[task.labels.index(label)]
    return costs[task.decisions.index(decision)] > min(costs)


def added_cost(task: TaskSpec, probabilities: Sequence[float], primary: str, candidate: str) -> float | None:
    """Return what the candidate's decision adds to the expected cost, as a share of the largest cost.

    Args:
        probabilities: Of the task's labels, in their order.
    Returns:
        None when the probabilities or a decision do not fit the task.
    """
    if len(probabilities) != len(task.labels) or primary not in task.decisions or candidate not in task.decisions:
        return None
    added = sum(
        p * (cost_share(task, label, candidate) - cost_share(task, label, primary))
        for p, label in zip(probabilities, task.labels, strict=True)
    )
    return max(-1.0, min(1.0, added))  # probabilities may add up to a rounding error more than 1


def _paired(pairs: Sequence[PairCount], worth: Callable[[str, str], float]) -> Paired:
    """Tally what the candidate's decisions add to the primary's, pair by pair."""
    counts: Counter[float] = Counter()
    for pair in pairs:
        label = pair.label or ""
        counts[worth(label, pair.candidate) - worth(label, pair.primary)] += pair.n
    return Paired.of(counts)


def _strange(task: TaskSpec, decisions: Iterable[str]) -> str:
    found = sorted(set(decisions) - set(task.decisions))
    return f"decisions {found} are none of the task's {list(task.decisions)}" if found else ""


def _unreadable(gate: str, problem: str) -> GateReading:
    return GateReading(gate, Verdict.ERROR, 0.0, 0.0, 0.0, 0.0, 0, 0, f"{gate} cannot be read: {problem}")
