"""Open rollouts: which bundle may be rolled out now, and from where its rollout begins."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from controlplane.domain.rollout import Phase, Rollout, Verdict
from controlplane.errors import StepRefused, UnknownBundle
from controlplane.loop import deliver
from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import standing_split
from controlplane.store import rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit


def start(
    unit: Unit, deployment: Deployment, specialist: str, bundle: str, started_by: str, operation_id: str | None
) -> RolloutRow:
    """Open a rollout: of an accepted bundle as evaluated, of one that nobody judged yet as a candidate.

    Raises:
        UnknownBundle: The bundle is not this specialist's.
        StepRefused: It was rejected, serves already, was judged beside another primary or by another suite, or
            another rollout is open.
    """
    pack = deployment.pack(specialist)
    if operation_id and (known := rollouts.of_operation(unit, operation_id)) is not None:
        return known
    split = standing_split(unit, specialist)
    primary = split.primary if split else None
    found, judged = _candidate(unit, specialist, bundle, primary, pack.suite.digest)
    limits = deployment.settings.rollout
    # The clock may say the same twice; the number of rollouts does not.
    name = _name(specialist, f"{bundle}{len(rollouts.listed(unit, specialist))}", unit.now_ms)
    phase, verdict = (Phase.CANDIDATE, Verdict.NOT_YET) if judged is None else (Phase.EVALUATED, Verdict.PASS)
    state = Rollout(name, specialist, phase, False, primary, bundle, 0, limits.stages_bp, limits.shadow_bp, verdict)
    row = RolloutRow(
        state=state,
        evaluation=found.evaluation or "",
        suite=pack.suite.digest if judged is None else judged.suite,
        author=found.author,
        started_by=started_by,
        started_ms=unit.now_ms,
        stage_ms=unit.now_ms,
        operation_id=operation_id,
    )
    rollouts.add(unit, row)
    deliver.ask(unit, deployment, specialist, bundle)
    unit.record(
        started_by,
        "rollout.started",
        {
            "rollout": name,
            "specialist": specialist,
            "bundle": bundle,
            "primary": primary,
            "author": found.author,
            "to": phase.value,
        },
    )
    return row


def _candidate(unit: Unit, specialist: str, bundle: str, primary: str | None, suite: str) -> tuple[Any, Any]:
    """Return a bundle that may be rolled out now, and its evaluation where there is one; raises as ``start`` does."""
    found = rollouts.bundle_row(unit, bundle)
    if found is None or found.specialist != specialist:
        raise UnknownBundle(f"bundle is {bundle!r}, expected a bundle of {specialist!r}")
    if found.state == "rejected":
        raise StepRefused(f"bundle {bundle} is rejected, expected one that its evaluation accepted")
    if open_now := rollouts.opened(unit, specialist):
        raise StepRefused(f"rollout {open_now[0].state.id!r} of {specialist!r} is open, expected none")
    if primary == bundle:
        raise StepRefused(f"bundle {bundle} is the primary of {specialist!r} already")
    judged = rollouts.evaluation_row(unit, found.evaluation) if found.evaluation else None
    if judged is not None and judged.primary != primary:
        raise StepRefused(
            f"bundle {bundle} was compared with {judged.primary or 'no primary'}, but the primary is {primary} now"
        )
    if judged is not None and judged.suite != suite:
        raise StepRefused(
            f"bundle {bundle} was judged by suite {judged.suite}, but {suite} is in force now; "
            "train again to be judged by it"
        )
    return found, judged


def _name(specialist: str, what: str, now_ms: int) -> str:
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d-%H%M%S")
    return f"{specialist}-{moment}-{hashlib.sha256(f'{what}-{now_ms}'.encode()).hexdigest()[:6]}"
