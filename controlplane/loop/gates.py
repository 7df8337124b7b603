"""What a stage has shown: counts in, gate readings out; pure arithmetic on always-valid intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.detectors import sequential
from controlplane.domain.rollout import GateReading, Verdict
from controlplane.settings import RolloutSettings
from protos.contract.task import TaskSpec


@dataclass(frozen=True, slots=True)
class PairCount:
    """How many shadow pairs had these decisions; ``candidate`` is empty when it did not answer."""

    primary: str
    candidate: str
    is_in_time: bool
    label: str | None
    n: int


@dataclass(frozen=True, slots=True)
class ArmCost:
    """Cost of one arm's decisions whose outcome is known: the sum of shares of the largest cost, and how many."""

    total: float
    n: int


@dataclass(frozen=True, slots=True)
class ArmCount:
    """Exact counts of one arm since the stage began."""

    requests: int
    unanswered: int
    late: int


def shadow_gates(task: TaskSpec, pairs: Sequence[PairCount], limits: RolloutSettings) -> tuple[GateReading, ...]:
    """Read the paired comparison of a stage."""
    return (
        _failures(pairs, limits),
        _disagreement(pairs, limits),
        _paired_cost(task, pairs, limits),
    )


def canary_gates(
    canary: ArmCount, baseline: ArmCount, canary_cost: ArmCost, baseline_cost: ArmCost, limits: RolloutSettings
) -> tuple[GateReading, ...]:
    """Compare the canary with the equal slice of the primary's traffic."""
    margin, alpha = limits.failure_margin, limits.alpha
    counts = (canary.requests, baseline.requests)
    return (
        _difference("canary_unanswered", canary.unanswered, counts[0], baseline.unanswered, counts[1], margin, alpha),
        _difference("canary_late", canary.late, counts[0], baseline.late, counts[1], margin, alpha),
        _difference(
            "canary_cost",
            canary_cost.total,
            canary_cost.n,
            baseline_cost.total,
            baseline_cost.n,
            limits.cost_margin,
            alpha,
        ),
    )


def cost_share(task: TaskSpec, label: str, decision: str) -> float:
    """Return what a decision costs on a true label, as a share of the largest cost in the task."""
    largest = max(max(row) for row in task.cost) or 1.0
    return task.cost[task.labels.index(label)][task.decisions.index(decision)] / largest


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


def _verdict(lower: float, upper: float, limit: float) -> Verdict:
    if upper <= limit:
        return Verdict.PASS
    return Verdict.FAIL if lower > limit else Verdict.NOT_YET


def _reading(
    gate: str, value: float, lower: float, upper: float, limit: float, n: int, missing: int | None
) -> GateReading:
    verdict = _verdict(lower, upper, limit)
    words = f"{gate} is {value:.3f} ({lower:.3f} to {upper:.3f}), limit {limit:.3f}, from {n}"
    if verdict is Verdict.NOT_YET:
        side = "pass" if value <= limit else "fail"
        words += f", about {missing} more to {side}" if missing is not None else ", and more of the same will not do"
    return GateReading(
        gate, verdict, value, lower, upper, limit, n, (missing or 0) if verdict is Verdict.NOT_YET else 0, words
    )


def _failures(pairs: Sequence[PairCount], limits: RolloutSettings) -> GateReading:
    n = sum(pair.n for pair in pairs)
    failed = sum(pair.n for pair in pairs if not pair.candidate or not pair.is_in_time)
    lower, upper = sequential.interval(failed, n, limits.alpha)
    missing = _share_missing(failed, n, limits.failure_margin, limits.alpha)
    return _reading("shadow_failures", failed / n if n else 0.0, lower, upper, limits.failure_margin, n, missing)


def _disagreement(pairs: Sequence[PairCount], limits: RolloutSettings) -> GateReading:
    answered = [pair for pair in pairs if pair.candidate]
    n = sum(pair.n for pair in answered)
    differ = sum(pair.n for pair in answered if pair.candidate != pair.primary)
    lower, upper = sequential.interval(differ, n, limits.alpha)
    missing = _share_missing(differ, n, limits.disagreement_limit, limits.alpha)
    value = differ / n if n else 0.0
    return _reading("shadow_disagreement", value, lower, upper, limits.disagreement_limit, n, missing)


def _paired_cost(task: TaskSpec, pairs: Sequence[PairCount], limits: RolloutSettings) -> GateReading:
    """Bound the added cost per request by its parts: what the candidate made worse less what it made better.

    Most pairs agree, so both parts are rare and their bounds far tighter than those of the difference.
    """
    n, worse, better = 0, 0.0, 0.0
    for pair in pairs:
        if pair.label is None or not pair.candidate or pair.label not in task.labels:
            continue
        added = cost_share(task, pair.label, pair.candidate) - cost_share(task, pair.label, pair.primary)
        n += pair.n
        worse += max(added, 0.0) * pair.n
        better += max(-added, 0.0) * pair.n
    # Sums of shares may exceed the count by a rounding error.
    worse, better = min(worse, float(n)), min(better, float(n))
    return _difference("shadow_cost", worse, n, better, n, limits.cost_margin, limits.alpha)


def _difference(gate: str, a: float, a_n: int, b: float, b_n: int, limit: float, alpha: float) -> GateReading:
    lower, upper = sequential.difference(a, a_n, b, b_n, alpha)
    value = (a / a_n if a_n else 0.0) - (b / b_n if b_n else 0.0)
    if value <= limit:
        missing = sequential.difference_sample_missing(a, a_n, b, b_n, limit, alpha)
    else:
        missing = sequential.difference_sample_missing(b, b_n, a, a_n, -limit, alpha)
    return _reading(gate, value, lower, upper, limit, min(a_n, b_n), missing)


def _share_missing(successes: float, n: int, limit: float, alpha: float) -> int | None:
    """Estimate the further sample until the interval leaves the limit on one side, if the mean stays."""
    if not n or successes / n <= limit:
        return sequential.sample_missing(successes, n, limit, alpha)
    return sequential.sample_missing(n - successes, n, 1 - limit, alpha)
