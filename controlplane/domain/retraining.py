"""Whether to retrain: what triggers it, what stands against it. Facts in, a reasoned answer out."""

from dataclasses import dataclass

LOOP_TRIGGERS = ("drift", "schedule", "labels", "suite")  # what the loop starts by itself, and the weekly budget counts
WEEK_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one moment of one specialist.

    Attributes:
        busy: A job that has not ended, in words, or "".
        rollout: The id of an open rollout, or "".
        has_primary: Whether anything serves; without a primary a person trains the first bundle.
        since_training_s: Seconds since the last training was queued, None without one.
        since_drift_s: The same of the last training that drift asked for.
        fresh_labels: Outcomes since then; ``labelled`` counts live samples with a known outcome.
        this_week: Trainings the loop queued by itself in the last seven days.
    """

    busy: str
    rollout: str
    has_primary: bool
    since_training_s: float | None
    since_drift_s: float | None
    fresh_labels: int
    labelled: int
    this_week: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings ask: see ``TrainingSettings`` and ``DriftSettings``."""

    every_s: float
    labels: int
    least_labelled: int
    weekly_budget: int
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class No:
    """Not now, because; ``code`` is closed, so that the same reason is recorded once."""

    code: str
    reason: str


def is_due(trigger: str, facts: Facts, limits: Limits) -> str | None:
    """Say why a trigger of the loop's own clock fires now, or None when it does not."""
    if trigger == "schedule" and limits.every_s and facts.since_training_s is not None:
        if facts.since_training_s >= limits.every_s:
            return f"the last training was {facts.since_training_s:.0f} s ago, scheduled every {limits.every_s:g} s"
    elif trigger == "labels" and limits.labels and facts.fresh_labels >= limits.labels:
        return f"{facts.fresh_labels} outcomes since the last training, asked for {limits.labels}"
    return None


def against(trigger: str, facts: Facts, limits: Limits) -> No | None:
    """Return what stands against a retraining that a trigger of the loop asks for, the first of what there is."""
    if not facts.has_primary:
        return No("no_primary", "nothing serves yet; a person trains the first bundle")
    if facts.busy:
        return No("busy", facts.busy)
    if facts.rollout:
        return No("rollout_open", f"rollout {facts.rollout} is open")
    if facts.this_week >= limits.weekly_budget:
        return No("budget", f"{facts.this_week} trainings in seven days, the budget is {limits.weekly_budget}")
    if trigger == "drift" and facts.since_drift_s is not None and facts.since_drift_s < limits.cooldown_s:
        left = limits.cooldown_s - facts.since_drift_s
        return No(
            "cooldown", f"the last training for drift was {facts.since_drift_s:.0f} s ago, wait {left:.0f} s more"
        )
    if facts.labelled < limits.least_labelled:
        return No(
            "too_few_labels", f"{facts.labelled} live samples have a known outcome, expected {limits.least_labelled}"
        )
    return None
