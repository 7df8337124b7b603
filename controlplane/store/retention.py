"""What the control plane's memory says of bundles that are needed."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from controlplane.domain.retention import needed_by_plan
from controlplane.store import plans, rollouts
from controlplane.store.store import Unit
from controlplane.store.tables import job

UNFINISHED = ("queued", "running")


def bundles_needed(unit: Unit) -> dict[str, str]:
    """Return every bundle that a plan, a rollout or a job needs, with the reason.

    Plans: the newest one that stands, every one offered, the last one applied, and whatever some gateway was last
    seen with: it serves it until it hears of another.
    """
    needed: dict[str, str] = {}
    for opened in rollouts.opened(unit):
        for part in ("candidate", "primary"):
            digest = getattr(opened.state, part)
            if digest is not None:
                needed[digest] = f"{part} of rollout {opened.state.id}"
    for found in unit.connection.execute(select(job).where(job.c.state.in_(UNFINISHED))):
        for digest in _digests(found.request):
            needed[digest] = f"job {found.id}"
    kept = [*plans.with_state(unit, plans.OFFERED), *plans.with_state(unit, plans.APPLIED)[-1:]]
    standing = plans.standing(unit)
    if standing is not None:
        kept.append(standing)
    for gateway in plans.gateways(unit):
        row = plans.get(unit, gateway.generation)
        if row is not None:
            kept.append(row)
    for row in kept:
        needed |= needed_by_plan(row.plan, f"plan {row.generation}")
    return needed


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith("sha256:"):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from _digests(item)
