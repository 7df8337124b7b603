"""Who was primary before whom: a promotion retires the rollout that made the last one, a rollback brings it back."""

from dataclasses import replace

from controlplane.domain.rollout import Phase
from controlplane.loop.deployment import LOOP
from controlplane.store import rollouts
from controlplane.store.rollouts import RolloutRow, moved
from controlplane.store.store import Unit


def retire(unit: Unit, successor: RolloutRow) -> None:
    """Retire whichever rollout of a specialist made the primary before ``successor``'s."""
    for row in rollouts.listed(unit, successor.state.specialist):
        if row.state.phase is Phase.PRIMARY and row.state.id != successor.state.id:
            after = replace(moved(row, phase=Phase.RETIRED), end_reason=f"{successor.state.id} took its place")
            rollouts.move(unit, row, after, LOOP, "rollout.retired", {"successor": successor.state.id})


def restore(unit: Unit, ended: RolloutRow) -> None:
    """Bring back the rollout that made the primary which ``ended`` was rolled back to, if there was one."""
    for row in reversed(rollouts.listed(unit, ended.state.specialist)):
        if row.state.phase is Phase.RETIRED and row.state.candidate == ended.state.primary:
            after = replace(moved(row, phase=Phase.PRIMARY), end_reason="promoted")
            rollouts.move(unit, row, after, LOOP, "rollout.restored", {"successor": ended.state.id})
            return
