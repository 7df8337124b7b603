"""What a shadow has shown: recorded pairs and counted drops in, one report out. It decides nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.detectors import sequential
from controlplane.domain.rollout import GateReading, Phase
from controlplane.loop.deployment import Deployment
from controlplane.loop.gates import PairCount, shadow_gates
from controlplane.loop.maturity import matured_before
from controlplane.settings import RolloutSettings
from controlplane.store import counters
from controlplane.store import pairs as pair_rows
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.task import TaskSpec

MOST_DETAILED = 20_000  # newest pairs read one by one; their quantiles move little beyond
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Flow:
    """What became of the requests drawn for a shadow, over all gateways."""

    offered: int
    sent: int
    paired: int
    drops: dict[str, int]

    @property
    def on_their_way(self) -> int:
        """Copies that are neither paired nor dropped: waiting, or lost with a gateway that was killed."""
        return max(0, self.offered - self.paired - sum(self.drops.values()))


@dataclass(frozen=True, slots=True)
class Pair:
    """One request that both answered, or tried to; what an engine did not say is None."""

    failure: str
    is_primary_fallback: bool
    primary_score: float | None
    candidate_score: float | None
    primary_engine_us: int | None
    candidate_engine_us: int | None
    added_by_primary: float | None
    added_by_candidate: float | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean between bounds that stay valid however often they are looked at."""

    value: float
    lower: float
    upper: float
    sample: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Quantiles at ``QUANTILES`` of both engines and of the difference pair by pair; empty without a pair."""

    primary: tuple[float, ...]
    candidate: tuple[float, ...]
    difference: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Everything a person needs to judge a shadow. Differences are candidate less primary."""

    since_ms: int
    flow: Flow
    pairs: int
    primary_fallbacks: int
    failures: dict[str, int]
    decisions: dict[tuple[str, str], int]
    in_time: Estimate
    detailed: int
    score: Measure
    engine_us: Measure
    slower: Estimate
    score_difference: Estimate
    known_cost: Estimate
    expected_by_primary: Estimate
    expected_by_candidate: Estimate
    gates: tuple[GateReading, ...]


def shadow_report(unit: Unit, deployment: Deployment, row: RolloutRow) -> ShadowReport:
    """Report on a rollout: while it shadows on the stage that its gates read, afterwards on all of it."""
    state = row.state
    since_ms = row.stage_ms if state.phase is Phase.SHADOW else 0
    due_ms = matured_before(unit, state.specialist, deployment.clock())
    counted = stage_pairs(unit, state.id, since_ms, due_ms)
    detailed = [_pair(found) for found in pair_rows.details(unit, state.id, since_ms, MOST_DETAILED)]
    flow = total_flow(counters.shadow_counts(unit, state.specialist, state.id))
    task = deployment.pack(state.specialist).task
    return summarise(task, deployment.settings.rollout, since_ms, flow, counted, detailed)


def stage_pairs(unit: Unit, salt: str, since_ms: int, due_ms: int | None) -> list[PairCount]:
    """Count a stage's pairs; those made up to ``due_ms`` are matured."""
    return [
        PairCount(p.primary_decision, p.candidate_decision, p.in_time, p.label, p.n, bool(p.matured))
        for p in pair_rows.decisions(unit, salt, since_ms, due_ms)
    ]


def summarise(
    task: TaskSpec,
    limits: RolloutSettings,
    since_ms: int,
    flow: Flow,
    counted: Sequence[PairCount],
    detailed: Sequence[Pair],
) -> ShadowReport:
    """Turn counts and pairs into a report.

    Args:
        counted: All pairs of the stage, counted: what the gates read.
        detailed: The newest of them, one by one.
    """
    n = sum(pair.n for pair in counted)
    met = sum(pair.n for pair in counted if pair.candidate and pair.is_in_time)
    decisions: Counter[tuple[str, str]] = Counter()
    for pair in counted:
        decisions[pair.primary, pair.candidate] += pair.n
    gates = shadow_gates(task, counted, limits)
    cost = next(reading for reading in gates if reading.gate == "shadow_cost")
    scores = _both((p.primary_score, p.candidate_score) for p in detailed)
    times = _both((p.primary_engine_us, p.candidate_engine_us) for p in detailed)
    unknown = [p for p in detailed if p.label is None]
    alpha = limits.alpha
    return ShadowReport(
        since_ms=since_ms,
        flow=flow,
        pairs=n,
        primary_fallbacks=sum(p.is_primary_fallback for p in detailed),
        failures=dict(Counter(p.failure for p in detailed if p.failure)),
        decisions=dict(decisions),
        in_time=share(met, n, alpha),
        detailed=len(detailed),
        score=_measure(scores),
        engine_us=_measure(times),
        slower=share(sum(candidate > primary for primary, candidate in times), len(times), alpha),
        score_difference=mean_difference([candidate - primary for primary, candidate in scores], alpha),
        known_cost=Estimate(cost.value, cost.lower, cost.upper, cost.sample),
        expected_by_primary=mean_difference(_known(p.added_by_primary for p in unknown), alpha),
        expected_by_candidate=mean_difference(_known(p.added_by_candidate for p in unknown), alpha),
        gates=gates,
    )


def share(successes: int, n: int, alpha: float) -> Estimate:
    """Estimate a share."""
    return Estimate(successes / n if n else 0.0, *sequential.interval(successes, n, alpha), n)


def mean_difference(differences: Sequence[float], alpha: float) -> Estimate:
    """Estimate the mean of paired differences in -1..1.

    Bounded by bets on pairs, as the cost gate is: most pairs move little, and bets notice that.
    """
    found = np.asarray(differences, dtype=np.float64)
    value = float(found.mean()) if len(found) else 0.0
    return Estimate(value, *sequential.paired_interval(found, alpha), len(found))


def total_flow(rows: Sequence[Any]) -> Flow:
    """Add up what gateways counted since each of their starts."""
    drops: Counter[str] = Counter()
    for row in rows:
        drops.update(row.drops)
    offered, sent, paired = (sum(getattr(row, name) for row in rows) for name in ("offered", "sent", "paired"))
    return Flow(offered, sent, paired, dict(drops))


def _pair(row: Any) -> Pair:
    return Pair(
        failure=row.failure,
        is_primary_fallback=row.primary_fallback,
        primary_score=row.primary_score,
        candidate_score=row.candidate_score,
        primary_engine_us=row.primary_engine_us,
        candidate_engine_us=row.candidate_engine_us,
        added_by_primary=row.added_by_primary,
        added_by_candidate=row.added_by_candidate,
        label=row.label,
    )


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _both(pairs: Any) -> list[tuple[float, float]]:
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _measure(pairs: Sequence[tuple[float, float]]) -> Measure:
    if not pairs:
        return Measure((), (), ())
    values = np.asarray(pairs, dtype=np.float64)
    columns = (values[:, 0], values[:, 1], values[:, 1] - values[:, 0])
    primary, candidate, difference = (tuple(map(float, np.quantile(column, QUANTILES))) for column in columns)
    return Measure(primary, candidate, difference)
