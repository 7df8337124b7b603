"""Rehearse the way back before anybody is asked to approve the way forward.

While a candidate only shadows, the plan that would roll it back is offered for real, every gateway's word is
awaited, and the shadow is put back, which needs no approval. Callers notice nothing: the primary answers all
along. What is measured is the whole way that a rollback takes.
"""

from dataclasses import dataclass, replace

from controlplane.domain.rollout import GateReading, Phase, Verdict
from controlplane.errors import StepRefused
from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import publish, standing_split
from controlplane.store import drills, plans, rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.plan import Split

GATE = "rollback_drill"
ABANDONED_MS = 60_000  # a drill that took longer was cut short: the shadow is put back


@dataclass(frozen=True, slots=True)
class Begun:
    """A drill under way."""

    rollout: str
    generation: int
    started_ms: int
    shadow: Split


def begin(unit: Unit, deployment: Deployment, row: RolloutRow, person: str) -> Begun:
    """Offer the plan that takes a shadowing candidate out; raises StepRefused."""
    split = standing_split(unit, row.state.specialist)
    if row.state.phase is not Phase.SHADOW or split is None or split.candidate != row.state.candidate:
        raise StepRefused(
            f"rollout {row.state.id!r} is {row.state.phase.value}, expected one whose candidate only shadows"
        )
    away = replace(split, candidate=None, canary_bp=0, shadow_bp=0)
    generation = publish(unit, deployment, away, row.state.id).generation
    drills.begin(unit, row.state.id, generation, person)
    return Begun(row.state.id, generation, unit.now_ms, split)


def settled(unit: Unit, begun: Begun) -> tuple[list[str], int] | None:
    """Return which gateways took the plan and when the last one did; None while one that watches has not.

    Raises:
        StepRefused: They refused it.
    """
    row = plans.get(unit, begun.generation)
    if row is not None and row.state == plans.REFUSED:
        raise StepRefused(f"gateways refused the plan of the drill: {row.reason}: {row.message}")
    words = plans.acknowledgements(unit, begun.generation)
    said = {word["gateway"]: word["at_ms"] for word in words if word["applied"]}
    watching = {g.id for g in plans.gateways(unit) if g.seen_ms >= begun.started_ms - ABANDONED_MS}
    if not said or watching - set(said):
        return None
    return sorted(said), max(said.values())


def finish(unit: Unit, deployment: Deployment, begun: Begun, gateways: list[str], person: str, at_ms: int) -> int:
    """Put the shadow back, and keep how long the way back took; returns it in milliseconds."""
    took_ms = max(1, at_ms - begun.started_ms)
    drills.finish(unit, begun.generation, took_ms, gateways)
    unit.record(
        person,
        "rollback.drilled",
        {"rollout": begun.rollout, "generation": begun.generation, "took_ms": took_ms, "gateways": gateways},
    )
    put_back(unit, deployment, begun.rollout, begun.shadow)
    return took_ms


def put_back(unit: Unit, deployment: Deployment, rollout: str, shadow: Split) -> None:
    """Let the candidate shadow again, where its rollout still does."""
    row = rollouts.get(unit, rollout)
    split = standing_split(unit, shadow.specialist)
    if row is None or row.state.phase is not Phase.SHADOW or split is None or split.candidate is not None:
        return
    publish(unit, deployment, shadow, rollout)
    if row.evidence is not None:
        # What is put up for approval has to hold the drill; what was approved before still counts.
        row = replace(row, evidence_past=(*row.evidence_past, row.evidence), evidence=None)
        rollouts.save(unit, row)


def repair(unit: Unit, deployment: Deployment, row: RolloutRow) -> None:
    """Put back a shadow whose drill was cut short, by a kill for instance."""
    split = standing_split(unit, row.state.specialist)
    if row.state.phase is not Phase.SHADOW or split is None or split.candidate is not None:
        return
    rehearsed = drills.of_rollout(unit, row.state.id)
    if not rehearsed or rehearsed[-1].generation != plans.last_generation(unit):
        return
    if unit.now_ms - rehearsed[-1].started_ms > ABANDONED_MS:
        shadow = replace(split, candidate=row.state.candidate, shadow_bp=row.state.shadow_bp)
        put_back(unit, deployment, row.state.id, shadow)


def reading(unit: Unit, deployment: Deployment, row: RolloutRow) -> GateReading | None:
    """Say whether a shadowing rollout's way back was rehearsed; None where nobody asks for that.

    A drill is for the shadow: later it would take a weight back that people approved.
    """
    beyond = deployment.settings.rollout.drill_beyond_bp
    if row.state.phase is not Phase.SHADOW or row.state.stages_bp[-1] <= beyond:
        return None
    took = [d.took_ms / 1000 for d in drills.of_rollout(unit, row.state.id) if d.took_ms is not None]
    limit = ABANDONED_MS / 1000
    if not took:
        words = f"no way back was rehearsed, and a stage goes beyond {beyond / 100:g} %: interlock rollout drill"
        return GateReading(GATE, Verdict.NOT_YET, 0.0, 0.0, limit, limit, 0, 1, words)
    words = f"the way back took {took[-1]:.3f} s in the last of {len(took)} drills"
    return GateReading(GATE, Verdict.PASS, took[-1], took[-1], took[-1], limit, len(took), 0, words)


def report(unit: Unit, rollout: str) -> dict[str, object]:
    """Return a rollout's drills as part of its evidence."""
    made = [
        {"generation": d.generation, "took_ms": d.took_ms, "at_ms": d.started_ms, "gateways": list(d.gateways)}
        for d in drills.of_rollout(unit, rollout)
        if d.took_ms is not None
    ]
    last = made[-1] if made else None
    where = f"back on the primary in {last['took_ms']} ms on {', '.join(made[-1]['gateways'])}" if last else ""
    summary = where or "none"
    return {"drills": made, "summary": summary}
