"""What a model is worth: the cost of its decisions beside those of units that it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.detectors import sequential
from controlplane.detectors.sequential import Share
from controlplane.errors import StepRefused
from controlplane.loop.deployment import Deployment
from controlplane.loop.gates import cost_share, known_share
from controlplane.loop.publish import standing_split
from controlplane.loop.shadow_report import Estimate
from controlplane.store import samples
from controlplane.store.store import Unit
from protos import decide_pb2
from protos.contract.task import TaskSpec

WITH_MODEL = (decide_pb2.ARM_PRIMARY, decide_pb2.ARM_BASELINE)
WITHOUT = decide_pb2.ARM_HOLDBACK


@dataclass(frozen=True, slots=True)
class ModelValue:
    """Costs per decision whose outcome is known, as shares of the task's largest cost."""

    bundle: str
    holdback_bp: int
    with_model: Estimate
    without_model: Estimate
    saved: Estimate  # without less with: above 0, the model earns its place


def model_value(unit: Unit, deployment: Deployment, specialist: str) -> ModelValue:
    """Measure the standing primary against its holdback; raises StepRefused without a plan."""
    split = standing_split(unit, specialist)
    if split is None:
        raise StepRefused(f"{specialist!r} has no plan, so nothing answers for it yet")
    task = deployment.pack(specialist).task
    rows = samples.bundle_decisions(unit, specialist, split.primary)
    return summarise(task, rows, split.primary, split.holdback_bp, deployment.settings.rollout.alpha)


def summarise(task: TaskSpec, rows: Sequence[Any], bundle: str, holdback_bp: int, alpha: float) -> ModelValue:
    """Turn counts of (arm, decision, true label, n) into a measurement.

    Fallbacks of the model's arms count: they are what callers got of it. Bounds stay valid however often they are
    looked at.
    """
    model, held = (
        known_share(task, [row for row in rows if row.arm in arms], lambda label, said: cost_share(task, label, said))
        for arms in (WITH_MODEL, (WITHOUT,))
    )
    saved = held.value - model.value if held.n and model.n else 0.0
    bounds = sequential.difference(held.total, held.n, model.total, model.n, alpha)
    sample = min(held.n, model.n)
    return ModelValue(bundle, holdback_bp, _cost(model, alpha), _cost(held, alpha), Estimate(saved, *bounds, sample))


def _cost(cost: Share, alpha: float) -> Estimate:
    return Estimate(cost.value, *sequential.interval(cost.total, cost.n, alpha), cost.n)
