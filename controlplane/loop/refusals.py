"""What follows when gateways refuse a plan: offer it again where the trouble passes, take it back where it does not."""

from dataclasses import replace

import structlog

from controlplane.domain.rollout import Phase
from controlplane.errors import StepRefused
from controlplane.loop import succession
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.publish import publish, standing_split
from controlplane.store import plans, rollouts
from controlplane.store.store import Unit
from protos.contract.plan import Split

log = structlog.get_logger()

# A gateway that refuses for these can apply the same plan once its machine has recovered.
PASSING_TROUBLES = ("engine_unavailable", "state_not_written")
OFFER_AGAIN_MS = 2_000


def offer_again(deployment: Deployment) -> None:
    """Offer a plan again, as a new generation, that gateways refused for trouble that passes."""
    with deployment.store.writing(deployment.clock()) as unit:
        row = plans.get(unit, plans.last_generation(unit))
        if row is None or row.state != plans.REFUSED or row.reason not in PASSING_TROUBLES or row.rollout is None:
            return
        found = rollouts.get(unit, row.rollout)
        split = row.plan.split_for(found.state.specialist) if found else None
        if found is None or split is None or unit.now_ms - (row.settled_ms or 0) < OFFER_AGAIN_MS:
            return
        generation = _offered(unit, deployment, split, row.rollout)
        if generation is not None and found.stage_generation == row.generation:
            rollouts.save(unit, replace(found, stage_generation=generation))


def undo_promotions(deployment: Deployment) -> None:
    """Take back a promotion that the gateways refused for good: the primary never changed there."""
    with deployment.store.writing(deployment.clock()) as unit:
        row = plans.get(unit, plans.last_generation(unit))
        if row is None or row.state != plans.REFUSED or row.reason in PASSING_TROUBLES or row.rollout is None:
            return
        found = rollouts.get(unit, row.rollout)
        if found is None or found.state.phase is not Phase.PRIMARY:
            return
        split = standing_split(unit, found.state.specialist)
        generation = None
        if split is not None and split.candidate == found.state.candidate:
            back = replace(split, candidate=None, canary_bp=0, shadow_bp=0)
            generation = _offered(unit, deployment, back, row.rollout)
            if generation is None:
                return
        said = f"gateways refused the promotion: {row.reason}: {row.message}"
        after = replace(rollouts.moved(found, phase=Phase.ROLLED_BACK), end_reason=said)
        rollouts.move(unit, found, after, LOOP, "rollout.rolled_back", {"reason": said, "generation": generation})
        succession.restore(unit, after)


def _offered(unit: Unit, deployment: Deployment, split: Split, rollout: str) -> int | None:
    """Offer a split and return its generation; None where the rules refuse it: it is tried again."""
    try:
        return publish(unit, deployment, split, rollout).generation
    except StepRefused as refused:
        log.error("not_offered_again", rollout=rollout, reason=str(refused))
        return None
