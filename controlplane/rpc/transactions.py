"""What every service of the control plane does: one call, one transaction, off the event loop."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from controlplane.domain.rollout import GateReading
from controlplane.errors import RequestInvalid, UnknownRollout
from controlplane.loop.deployment import Deployment
from controlplane.store import rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos import control_pb2 as pb

MOST_TEXT = 2000
LAST_MS = 253_402_300_799_000  # the end of year 9999, beyond which there is no date


class Transactions:
    """Opens a transaction in a thread and does one thing in it."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any]) -> None:
        self._deployment = deployment
        self._in_thread = in_thread

    async def _read(self, work: Callable[[Unit], Any]) -> Any:
        def whole() -> Any:
            with self._deployment.store.reading() as unit:
                return work(unit)

        return await self._in_thread(whole)

    async def _write(self, work: Callable[[Unit], Any]) -> Any:
        def whole() -> Any:
            with self._deployment.store.writing(self._deployment.clock()) as unit:
                return work(unit)

        answer = await self._in_thread(whole)
        self._deployment.changed()
        return answer


def find_rollout(unit: Unit, deployment: Deployment, name: str) -> RolloutRow:
    """Return a rollout by its id, or a specialist's open one, else its last; raises UnknownRollout."""
    row = rollouts.get(unit, name)
    if row is not None:
        return row
    known = rollouts.listed(unit, name) if name in deployment.packs else []
    if not known:
        raise UnknownRollout(name)
    return next((r for r in reversed(known) if r.is_open), known[-1])


def gate_message(reading: GateReading) -> pb.GateReading:
    """Write a gate's reading as a message."""
    return pb.GateReading(
        gate=reading.gate,
        verdict=reading.verdict.value,
        value=reading.value,
        lower=reading.lower,
        upper=reading.upper,
        limit=reading.limit,
        sample=reading.sample,
        sample_missing=reading.sample_missing,
        summary=reading.summary,
    )


def time_text(at_ms: int | None) -> str:
    """Write Unix milliseconds as a time; None as nothing. What a person signed to last longer ends with year 9999."""
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(min(at_ms, LAST_MS) / 1000, UTC).isoformat(timespec="milliseconds")


def check_text(value: str, name: str) -> None:
    """Refuse a text that is empty or too long; raises RequestInvalid."""
    if not value or len(value) > MOST_TEXT:
        raise RequestInvalid(f"{name} is {value[:60]!r}, expected 1 to {MOST_TEXT} characters")
