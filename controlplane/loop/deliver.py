"""See that a rollout's candidate is where gateways and workers elsewhere fetch from, before any plan names it."""

import hashlib
from pathlib import Path
from typing import Any

from controlplane.errors import StepRefused
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import jobs
from controlplane.store.store import Unit

KIND = "deliver"
TRY_AGAIN_MS = 60_000


def ask(unit: Unit, deployment: Deployment, specialist: str, bundle: str) -> Any:
    """Queue the copy of a bundle to ``bundles_url``, once for each store; return its job, None without such a URL."""
    to = deployment.settings.bundles_url
    if not to:
        return None
    operation = f"{KIND}-{hashlib.sha256(f'{to} {bundle}'.encode()).hexdigest()[:32]}"
    request = {"bundle": bundle, "to": to}
    name = jobs.queue(unit, KIND, specialist, cause="rollout", request=request, author=LOOP, operation_id=operation)
    return jobs.get(unit, name)


def require(unit: Unit, deployment: Deployment, specialist: str, bundle: str) -> None:
    """Refuse a step while its bundle is not delivered, and have a delivery that failed tried again after a while.

    Raises:
        StepRefused: Says what the delivery is at.
    """
    found = ask(unit, deployment, specialist, bundle)
    if found is None or found.state == jobs.DONE:
        return
    to = deployment.settings.bundles_url
    if found.state == jobs.FAILED and unit.now_ms - found.finished_ms >= TRY_AGAIN_MS:
        jobs.retry(unit, found.id)
    raise StepRefused(f"{bundle} is not in {to} yet: job {found.id} is {found.state}, {found.message}")


def prepare(deployment: Deployment, job: Any, folder: Path) -> dict[str, Any]:
    """Return the configuration of a copy."""
    return {**job.request, "bundles_dir": str(deployment.bundles.root)}


def finished(unit: Unit, deployment: Deployment, job: Any, result: dict[str, Any]) -> None:
    """Record where a bundle is now, byte for byte."""
    unit.record(LOOP, "bundle.delivered", {"job": job.id, "specialist": job.specialist, **result})
