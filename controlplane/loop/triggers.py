"""What may start a retraining besides drift: the schedule and the volume of labels. Either answer is recorded."""

import structlog

from controlplane.domain.retraining import LOOP_TRIGGERS, WEEK_MS, Facts, Limits, No, against, is_due
from controlplane.loop import retrain
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.publish import standing_split
from controlplane.store import decisions, jobs, rollouts, samples
from controlplane.store.store import Unit

log = structlog.get_logger()


def watch(deployment: Deployment) -> None:
    """Ask every trigger of the loop's own clock, for every specialist."""
    settings = deployment.settings.training
    if not settings.every_s and not settings.labels:
        return
    for specialist in deployment.packs:
        with deployment.store.writing(deployment.clock()) as unit:
            facts, limits = facts_of(unit, deployment, specialist), limits_of(deployment)
            for trigger in ("schedule", "labels"):
                why = is_due(trigger, facts, limits)
                if why is not None and decide(unit, deployment, specialist, trigger, why, facts):
                    break  # one training answers both


def decide(
    unit: Unit,
    deployment: Deployment,
    specialist: str,
    trigger: str,
    why: str,
    facts: Facts | None = None,
    *,
    ended: str = "",
) -> str | None:
    """Retrain, or record why not; return the training's job. The same "no" in a row is recorded once.

    ``ended`` is a job that ends with this decision, in the same transaction, and so stands in nobody's way.
    """
    facts = facts or facts_of(unit, deployment, specialist, ended)
    refusal = against(trigger, facts, limits_of(deployment))
    job = ""
    if refusal is None:
        job = retrain.ask(unit, deployment, specialist, cause=trigger, reason=why, author=LOOP, start_rollout=True)
    record(unit, specialist, trigger, refusal, why, job)
    return job or None


def record(unit: Unit, specialist: str, trigger: str, refusal: No | None, why: str, job: str) -> None:
    """Write a decision down, in a row and in the ledger."""
    before = decisions.latest(unit, specialist, trigger)
    if refusal is not None and before is not None and before.code == refusal.code:
        return
    reason = why if refusal is None else f"{why}; not retraining, because {refusal.reason}"
    values = {
        "specialist": specialist,
        "trigger": trigger,
        "code": refusal.code if refusal else "",
        "reason": reason,
        "job": job,
    }
    decisions.add(unit, values)
    unit.record(LOOP, "retrain.decided", values)
    log.info("retrain_decided", specialist=specialist, trigger=trigger, retrains=refusal is None)


def facts_of(unit: Unit, deployment: Deployment, specialist: str, ended: str = "") -> Facts:
    """Gather what a decision rests on."""
    running, last = jobs.unfinished(unit, specialist, ended), jobs.last_training(unit, specialist)
    drifted, open_now = jobs.last_training(unit, specialist, "drift"), rollouts.opened(unit, specialist)
    since = last.created_ms if last is not None else 0
    least = deployment.settings.drift.least_labelled
    return Facts(
        busy=f"job {running.id} ({running.kind}) is {running.state}" if running else "",
        rollout=open_now[0].state.id if open_now else "",
        has_primary=standing_split(unit, specialist) is not None,
        since_training_s=None if last is None else (unit.now_ms - since) / 1000,
        since_drift_s=None if drifted is None else (unit.now_ms - drifted.created_ms) / 1000,
        fresh_labels=samples.outcomes_since(unit, specialist, since),
        labelled=len(samples.labelled(unit, specialist, 0, least)),
        this_week=jobs.trained_since(unit, specialist, unit.now_ms - WEEK_MS, LOOP_TRIGGERS),
    )


def limits_of(deployment: Deployment) -> Limits:
    """Return what the settings ask."""
    training, drift = deployment.settings.training, deployment.settings.drift
    return Limits(training.every_s, training.labels, drift.least_labelled, training.weekly_budget, drift.cooldown_s)
