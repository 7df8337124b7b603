"""Move rollouts: read the stage, decide, record, apply. A crash repeats a decision, never invents one."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from controlplane.domain.rollout import (
    LEGAL_MOVES,
    Accept,
    Decision,
    Evidence,
    GateReading,
    Hold,
    Phase,
    Promote,
    Reject,
    RollBack,
    Rollout,
    Shadow,
    Shift,
    Verdict,
    check_move,
    decide,
    phase_after,
)
from controlplane.errors import StepRefused, UnknownRollout
from controlplane.loop import approvals, deliver, drill, refusals, succession
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.evidence import step_evidence, whole_evidence
from controlplane.loop.gates import ArmCount, arm, canary_gates, shadow_gates
from controlplane.loop.maturity import matured_before
from controlplane.loop.publish import publish, settle_refused, standing_split
from controlplane.loop.shadow_report import stage_pairs
from controlplane.store import counters, jobs, plans, rollouts, samples
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.plan import Split

log = structlog.get_logger()

BASELINE, CANARY = "2", "3"  # decide.v1 arms, as keys of counts


def advance(deployment: Deployment) -> None:
    """Look at every open rollout once."""
    with deployment.store.writing(deployment.clock()) as unit:
        settle_refused(unit)
        names = [row.state.id for row in rollouts.opened(unit)]
    for name in names:
        with deployment.store.writing(deployment.clock()) as unit:
            row = rollouts.get(unit, name)
            if row is not None and row.is_open:
                drill.repair(unit, deployment, row)
                step(unit, deployment, row)
    refusals.offer_again(deployment)
    refusals.undo_promotions(deployment)
    deployment.changed()
    _write_up(deployment)


def step(unit: Unit, deployment: Deployment, row: RolloutRow) -> RolloutRow:
    """Decide about one rollout and apply what was decided."""
    row = _judged(unit, _follow_refusal(unit, row))
    row = replace(row, gates=read_gates(unit, deployment, row))
    given = approvals.given(unit, deployment, row)
    now = datetime.fromtimestamp(unit.now_ms / 1000, UTC)
    decision = decide(row.state, Evidence(row.gates), given, now)
    if isinstance(decision, Hold):
        row = replace(row, waiting_for=_trouble(unit, row) or decision.reason)
        if decision.awaits_approval and row.evidence is None:
            row = _ask(unit, deployment, row)
        rollouts.save(unit, row)
        return row
    if isinstance(decision, Accept):
        after = rollouts.moved(replace(row, waiting_for=""), phase=phase_after(row.state, decision))
        return rollouts.move(unit, row, after, LOOP, "rollout.evaluated", {"evaluation": row.evaluation})
    if isinstance(decision, Reject):
        return end(unit, deployment, row.state.id, Phase.REJECTED, LOOP, decision.reason)
    return apply(unit, deployment, row, decision)


def apply(unit: Unit, deployment: Deployment, row: RolloutRow, decision: Decision) -> RolloutRow:
    """Carry out a decision that moves traffic, in the transaction that records it.

    Raises:
        IllegalTransition: The rollout's phase does not allow it.
    """
    target = phase_after(row.state, decision)
    check_move(row.state, target)
    try:
        if not isinstance(decision, RollBack):
            deliver.require(unit, deployment, row.state.specialist, row.state.candidate)
        generation = publish(unit, deployment, _split(unit, deployment, row, decision), row.state.id).generation
    except StepRefused as refused:
        # An approval can lapse between two lines; the rollout waits where it is.
        row = replace(row, waiting_for=f"not published: {refused}")
        rollouts.save(unit, row)
        log.warning("step_refused", rollout=row.state.id, reason=str(refused))
        return row
    moved = _begin_stage(unit, rollouts.moved(row, phase=target, stage=_stage(row.state, decision)), generation)
    detail: dict[str, Any] = {
        "generation": generation,
        "gates": [
            {"gate": g.gate, "verdict": g.verdict.value, "value": g.value, "sample": g.sample} for g in row.gates
        ],
    }
    match decision:
        case Shadow(shadow_bp):
            action, detail["shadow_bp"] = "rollout.shadowing", shadow_bp
        case Shift(canary_bp, _, statements):
            action = "rollout.shifted"
            detail |= {"canary_bp": canary_bp, "approvals": list(statements)}
        case Promote(statements):
            action, detail["approvals"] = "rollout.promoted", list(statements)
            moved = replace(moved, ended_ms=unit.now_ms, end_reason="promoted", waiting_for="")
        case RollBack(reason):
            action, detail["reason"] = "rollout.rolled_back", reason
            moved = replace(moved, ended_ms=unit.now_ms, end_reason=reason, waiting_for="", failed_ms=unit.now_ms)
        case _:
            raise AssertionError(f"{decision} moves nothing")
    if isinstance(decision, RollBack | Promote):
        # What ended the rollout stays to be read.
        moved = replace(moved, gates=row.gates)
    rollouts.move(unit, row, moved, LOOP, action, detail)
    if isinstance(decision, Promote):
        succession.retire(unit, moved)
    log.info("rollout_moved", rollout=row.state.id, phase=target.value, generation=generation)
    return moved


def read_gates(unit: Unit, deployment: Deployment, row: RolloutRow) -> tuple[GateReading, ...]:
    """Read every gate of the stage in force."""
    state, limits = row.state, deployment.settings.rollout
    task = deployment.pack(state.specialist).task
    if state.phase not in (Phase.SHADOW, Phase.CANARY):
        return row.gates
    due_ms = matured_before(unit, state.specialist, unit.now_ms)
    readings = shadow_gates(task, stage_pairs(unit, state.id, row.stage_ms, due_ms), limits)
    if state.phase is Phase.SHADOW:
        rehearsed = drill.reading(unit, deployment, row)
        return readings if rehearsed is None else (*readings, rehearsed)
    counts = counters.arm_counts(unit, state.specialist, state.id)
    known = samples.arm_decisions(unit, state.specialist, state.id, row.stage_generation, due_ms)
    began = row.stage_counts or {}
    canary, baseline = (
        arm(task, _since(counts.get(which, {}), began.get(which, {})), [r for r in known if str(r.arm) == which])
        for which in (CANARY, BASELINE)
    )
    compared = canary_gates(canary, baseline, limits)
    # In a canary the shadow pairs may only warn of harm: traffic that is not shadowed must not hold it up.
    return compared + tuple(r for r in readings if r.verdict is Verdict.FAIL)


def _trouble(unit: Unit, row: RolloutRow) -> str:
    """Say what went wrong with a rollout that somebody has to look at: no evaluation, or a step that was refused."""
    state = row.state
    if state.held:
        last = plans.last_of(unit, state.id)
        if last is None or last.state != plans.REFUSED:
            return ""
        return f"held, since plan {last.generation} was refused: {last.reason}, {last.message}"
    if state.phase is not Phase.CANDIDATE:
        return ""
    job = jobs.last_evaluation(unit, state.specialist, state.candidate)
    return f"its evaluation failed, job {job.id}: {job.message}" if job is not None and job.state == jobs.FAILED else ""


def _judged(unit: Unit, row: RolloutRow) -> RolloutRow:
    """Take note of what an evaluation says of a candidate beside the primary it is to replace."""
    found = rollouts.bundle_row(unit, row.state.candidate) if row.state.phase is Phase.CANDIDATE else None
    judged = rollouts.evaluation_row(unit, found.evaluation) if found is not None and found.evaluation else None
    if judged is None or judged.primary != row.state.primary:
        return row
    verdict = Verdict.PASS if judged.accepted else Verdict.FAIL
    return replace(rollouts.moved(row, evaluation=verdict), evaluation=judged.digest, suite=judged.suite)


def end(unit: Unit, deployment: Deployment, name: str, phase: Phase, person: str, reason: str) -> RolloutRow:
    """Reject or roll back a rollout because a person says so; a safe move, so it waits for nobody else.

    Raises:
        UnknownRollout, IllegalTransition: There is no such rollout, or it is over.
        StepRefused: A promoted bundle is not the primary any more.
    """
    row = rollouts.get(unit, name)
    if row is None:
        raise UnknownRollout(name)
    check_move(row.state, phase)
    said = f"{person}: {reason}"
    if row.state.phase is Phase.PRIMARY:
        # Whatever is compared with this primary has nothing to be compared with.
        for other in rollouts.opened(unit, row.state.specialist):
            over = Phase.ROLLED_BACK if Phase.ROLLED_BACK in LEGAL_MOVES[other.state.phase] else Phase.REJECTED
            end(unit, deployment, other.state.id, over, person, f"{name}, its primary, was rolled back: {reason}")
    split = standing_split(unit, row.state.specialist)
    generation = None
    if split is not None and split.candidate == row.state.candidate:
        back = replace(split, candidate=None, canary_bp=0, shadow_bp=0)
        generation = publish(unit, deployment, back, row.state.id).generation
    elif row.state.phase is Phase.PRIMARY:
        if split is None or split.primary != row.state.candidate or row.state.primary is None:
            raise StepRefused(f"rollout {name!r} put {row.state.candidate} in place, which is not the primary now")
        back = replace(split, primary=row.state.primary, previous=None)
        generation = publish(unit, deployment, back, row.state.id).generation
    action = "rollout.rejected" if phase is Phase.REJECTED else "rollout.rolled_back"
    after = replace(rollouts.moved(row, phase=phase), ended_ms=unit.now_ms, end_reason=said, waiting_for="")
    after = replace(after, evidence=None, evidence_path="")  # that of a step; the whole is written next
    if generation is not None:
        after = replace(after, failed_ms=unit.now_ms)
    was_primary = row.state.phase is Phase.PRIMARY
    row = rollouts.move(unit, row, after, person, action, {"reason": reason, "generation": generation})
    if was_primary:
        succession.restore(unit, row)
    return row


def _split(unit: Unit, deployment: Deployment, row: RolloutRow, decision: Decision) -> Split:
    state = row.state
    before = standing_split(unit, state.specialist)
    if isinstance(decision, Promote):
        wanted = approvals.next_step(unit, deployment, row)
        if wanted is None:
            raise StepRefused(f"rollout {state.id!r} has no next step")
        return wanted.after
    if before is None:
        raise StepRefused(f"{state.specialist!r} has no plan to shift")
    capture_bp = deployment.pack(state.specialist).task.capture_bp
    match decision:
        case Shadow(shadow_bp):
            # The salt is the rollout's id: a new rollout draws new callers.
            return Split(
                state.specialist,
                before.primary,
                state.candidate,
                before.previous,
                0,
                shadow_bp,
                capture_bp,
                deployment.settings.rollout.holdback_bp,
                state.id,
            )
        case Shift(canary_bp, _, _):
            return replace(before, canary_bp=canary_bp, shadow_bp=state.shadow_bp)
        case _:
            return replace(before, candidate=None, canary_bp=0, shadow_bp=0)


def _stage(state: Rollout, decision: Decision) -> int:
    return decision.stage if isinstance(decision, Shift) else state.stage


def _begin_stage(unit: Unit, row: RolloutRow, generation: int) -> RolloutRow:
    state = row.state
    # An approval of the canary holds for every stage below its ceiling; the last stage leads to another step.
    is_same_step = state.phase is Phase.CANARY and state.stage + 1 < len(state.stages_bp)
    named = (*row.evidence_past, row.evidence) if row.evidence else row.evidence_past
    return replace(
        row,
        gates=(),
        waiting_for="",
        evidence=None,
        evidence_past=named if is_same_step else (),
        evidence_path="",
        stage_generation=generation,
        stage_ms=unit.now_ms,
        stage_counts=counters.arm_counts(unit, row.state.specialist, row.state.id),
    )


def _ask(unit: Unit, deployment: Deployment, row: RolloutRow) -> RolloutRow:
    """Write the evidence that a person is asked to approve."""
    wanted = approvals.next_step(unit, deployment, row)
    if wanted is None:
        return row
    digest, path = step_evidence(unit, deployment, row, wanted.name)
    unit.record(
        LOOP,
        "approval.awaited",
        {"rollout": row.state.id, "step": wanted.name, "evidence": digest, "ceiling_bp": wanted.ceiling_bp},
    )
    return replace(row, evidence=digest, evidence_path=path)


def _since(now: dict[str, int], began: dict[str, int]) -> ArmCount:
    requests, unanswered, late = (now.get(name, 0) - began.get(name, 0) for name in ("requests", "unanswered", "late"))
    return ArmCount(requests, unanswered, late)


def _follow_refusal(unit: Unit, row: RolloutRow) -> RolloutRow:
    """Put a rollout back to where its gateways are, when they refused its last step for good."""
    refused = plans.get(unit, row.stage_generation)
    if refused is None or refused.state != plans.REFUSED or refused.reason in refusals.PASSING_TROUBLES:
        return row
    split = standing_split(unit, row.state.specialist)
    if split is None or (split.candidate, split.salt) != (row.state.candidate, row.state.id):
        phase, stage = Phase.EVALUATED, 0  # an earlier rollout of the same bundle is not this one
    elif split.canary_bp == 0:
        phase, stage = Phase.SHADOW, 0
    else:
        # A plan written by others may hold a weight that is no stage.
        stage = max((i for i, bp in enumerate(row.state.stages_bp) if bp <= split.canary_bp), default=0)
        phase = Phase.CANARY
    standing = plans.standing(unit)
    back = rollouts.moved(row, phase=phase, stage=stage, held=True)
    after = _begin_stage(unit, back, standing.generation if standing else 0)
    said = {"generation": refused.generation, "reason": refused.reason}
    return rollouts.move(unit, row, after, LOOP, "rollout.held", said)


def _write_up(deployment: Deployment) -> None:
    """Write the evidence of rollouts that ended. Traffic has moved by then: no way back waits for a report."""
    with deployment.store.reading() as unit:
        ended = [row.state.id for row in rollouts.listed(unit) if not row.is_open and not row.evidence_path]
    for name in ended:
        try:
            with deployment.store.writing(deployment.clock()) as unit:
                row = rollouts.get(unit, name)
                assert row is not None
                digest, path = whole_evidence(unit, deployment, row)
                rollouts.save(unit, replace(row, evidence=digest, evidence_path=path))
        except (StepRefused, OSError) as error:
            log.error("evidence_not_written", rollout=name, error=str(error))
