"""Jobs: queued work that survives a kill, leased by heartbeat to whoever runs it."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select, update

from controlplane.store.store import Unit
from controlplane.store.tables import job

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)
MOST_ATTEMPTS = 3


def queue(
    unit: Unit,
    kind: str,
    specialist: str,
    *,
    cause: str,
    request: Mapping[str, Any],
    author: str,
    operation_id: str | None = None,
) -> str:
    """Queue a job, record who asked for it and why, and return its id; a repeated operation returns the first job's."""
    if operation_id and (known := of_operation(unit, operation_id)) is not None:
        return str(known.id)
    name = f"{kind}-{uuid.uuid4().hex[:12]}"
    asked = {"kind": kind, "specialist": specialist, "cause": cause}
    add(unit, {"id": name, **asked, "request": dict(request), "operation_id": operation_id})
    unit.record(author, "job.queued", {"job": name, **asked, **request})
    return name


def add(unit: Unit, values: dict[str, Any]) -> None:
    """Put a job in the queue; ``values`` are id, kind, specialist, request, cause and perhaps operation_id."""
    unit.connection.execute(
        insert(job).values(state=QUEUED, attempt=0, progress=0.0, message="queued", created_ms=unit.now_ms, **values)
    )


def get(unit: Unit, name: str) -> Any:
    """Return a job, or None."""
    return unit.connection.execute(select(job).where(job.c.id == name)).first()


def of_operation(unit: Unit, operation_id: str) -> Any:
    """Return the job that an operation queued, or None."""
    return unit.connection.execute(select(job).where(job.c.operation_id == operation_id)).first()


def listed(unit: Unit, specialist: str = "") -> list[Any]:
    """Return jobs, of one specialist or all, oldest first."""
    query = select(job).order_by(job.c.created_ms, job.c.id)
    return list(unit.connection.execute(query.where(job.c.specialist == specialist) if specialist else query))


def unfinished(unit: Unit, specialist: str, but: str = "") -> Any:
    """Return a specialist's first job that is queued or running, or None; ``but`` names one that does not count."""
    query = select(job).where(job.c.specialist == specialist, job.c.state.in_(UNFINISHED), job.c.id != but)
    return unit.connection.execute(query.order_by(job.c.created_ms)).first()


def last_evaluation(unit: Unit, specialist: str, bundle: str) -> Any:
    """Return the job of a bundle's newest evaluation, or None."""
    query = select(job).where(
        job.c.specialist == specialist, job.c.kind == "evaluate", job.c.request["bundle"].as_string() == bundle
    )
    return unit.connection.execute(query.order_by(job.c.created_ms.desc(), job.c.id).limit(1)).first()


def claim(unit: Unit, lease_ms: int) -> Any:
    """Take the oldest queued job, or a running one whose heartbeat stopped; None when there is none.

    A job that was taken ``MOST_ATTEMPTS`` times is failed instead: it may be what kills its runners.
    """
    stale = (job.c.state == RUNNING) & (job.c.heartbeat_ms < unit.now_ms - lease_ms)
    for found in unit.connection.execute(
        select(job).where((job.c.state == QUEUED) | stale).order_by(job.c.created_ms, job.c.id)
    ).all():
        if found.attempt >= MOST_ATTEMPTS:
            finish(unit, found.id, FAILED, f"given up after {found.attempt} attempts", None)
            continue
        values = {"state": RUNNING, "attempt": found.attempt + 1, "heartbeat_ms": unit.now_ms, "message": "starting"}
        unit.connection.execute(update(job).where(job.c.id == found.id).values(values))
        return get(unit, found.id)
    return None


def beat(unit: Unit, name: str, attempt: int, progress: float, message: str) -> bool:
    """Renew a lease; False when another attempt has taken the job over."""
    values = {"progress": progress, "message": message[:2000], "heartbeat_ms": unit.now_ms}
    changed = unit.connection.execute(
        update(job).where(job.c.id == name, job.c.attempt == attempt, job.c.state == RUNNING).values(values)
    )
    return bool(changed.rowcount == 1)


def finish(unit: Unit, name: str, state: str, message: str, result: dict[str, Any] | None) -> None:
    """End a job."""
    values: dict[str, Any] = {"state": state, "message": message[:2000], "result": result, "finished_ms": unit.now_ms}
    if state == DONE:
        values["progress"] = 1.0
    unit.connection.execute(update(job).where(job.c.id == name).values(values))


def cancel(unit: Unit, name: str, message: str) -> bool:
    """End a job that has not ended; whoever runs it loses its lease and stops. False when it had ended."""
    values = {"state": CANCELLED, "message": message[:2000], "finished_ms": unit.now_ms}
    changed = unit.connection.execute(update(job).where(job.c.id == name, job.c.state.in_(UNFINISHED)).values(values))
    return bool(changed.rowcount == 1)


def retry(unit: Unit, name: str) -> bool:
    """Queue a failed or cancelled job again, its attempts counted afresh; False when it is neither."""
    values = {
        "state": QUEUED,
        "attempt": 0,
        "progress": 0.0,
        "message": "queued again",
        "heartbeat_ms": None,
        "finished_ms": None,
    }
    changed = unit.connection.execute(
        update(job).where(job.c.id == name, job.c.state.in_((FAILED, CANCELLED))).values(values)
    )
    return bool(changed.rowcount == 1)


def trained_since(unit: Unit, specialist: str, since_ms: int, causes: Sequence[str]) -> int:
    """Count trainings queued since a moment for any of these causes."""
    query = (
        select(func.count())
        .select_from(job)
        .where(
            job.c.specialist == specialist, job.c.kind == "train", job.c.created_ms >= since_ms, job.c.cause.in_(causes)
        )
    )
    return int(unit.connection.execute(query).scalar() or 0)


def last_training(unit: Unit, specialist: str, cause: str = "") -> Any:
    """Return the training queued last, of one cause or of whatever cause, or None."""
    query = select(job).where(job.c.specialist == specialist, job.c.kind == "train")
    query = query.where(job.c.cause == cause) if cause else query
    return unit.connection.execute(query.order_by(job.c.created_ms.desc(), job.c.id.desc()).limit(1)).first()
