"""Rollouts, bundles and evaluations: rows to domain values and back."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from controlplane.domain.rollout import OPEN, GateReading, Phase, Rollout, Verdict, check_move
from controlplane.store.store import Unit
from controlplane.store.tables import bundle, evaluation, rollout

_GET = select(rollout).where(rollout.c.id == bindparam("name"))
_ALL = select(rollout).order_by(rollout.c.started_ms, rollout.c.id)
_OF = _ALL.where(rollout.c.specialist == bindparam("name"))
_REPLACE = update(rollout).where(rollout.c.id == bindparam("of"), rollout.c.phase == bindparam("before"))


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout with everything around it that a decision does not need."""

    state: Rollout
    evaluation: str
    suite: str
    author: str
    started_by: str
    started_ms: int
    stage_ms: int
    ended_ms: int | None = None
    end_reason: str = ""
    waiting_for: str = ""
    gates: tuple[GateReading, ...] = ()
    stage_generation: int = 0
    stage_counts: dict[str, Any] | None = None
    evidence: str | None = None
    evidence_past: tuple[str, ...] = ()
    evidence_path: str = ""
    failed_ms: int | None = None
    rollback_ms: int | None = None
    operation_id: str | None = None

    @property
    def is_open(self) -> bool:
        """Say whether it may still move forward."""
        return self.state.phase in OPEN


def _values(row: RolloutRow) -> dict[str, Any]:
    state = row.state
    gates = [{**asdict(reading), "verdict": reading.verdict.value} for reading in row.gates]
    return {
        "id": state.id,
        "specialist": state.specialist,
        "phase": state.phase.value,
        "held": state.held,
        "primary": state.primary,
        "candidate": state.candidate,
        "stage": state.stage,
        "stages_bp": list(state.stages_bp),
        "shadow_bp": state.shadow_bp,
        "evaluated": state.evaluation.value,
        **{
            name: getattr(row, name)
            for name in RolloutRow.__dataclass_fields__
            if name not in ("state", "gates", "stage_counts", "evidence_past")
        },
        "gates": gates,
        "stage_counts": row.stage_counts or {},
        "evidence_past": list(row.evidence_past),
    }


def _row(found: Any) -> RolloutRow:
    values = dict(found._mapping)
    state = Rollout(
        id=values.pop("id"),
        specialist=values.pop("specialist"),
        phase=Phase(values.pop("phase")),
        held=values.pop("held"),
        primary=values.pop("primary"),
        candidate=values.pop("candidate"),
        stage=values.pop("stage"),
        stages_bp=tuple(values.pop("stages_bp")),
        shadow_bp=values.pop("shadow_bp"),
        evaluation=Verdict(values.pop("evaluated")),
    )
    values["gates"] = tuple(GateReading(**{**gate, "verdict": Verdict(gate["verdict"])}) for gate in values["gates"])
    values["evidence_past"] = tuple(values["evidence_past"])
    return RolloutRow(state=state, **values)


def add(unit: Unit, row: RolloutRow) -> None:
    """Keep a new rollout."""
    unit.connection.execute(insert(rollout).values(_values(row)))


def save(unit: Unit, row: RolloutRow) -> None:
    """Replace a rollout's row, its phase left as it is: only ``move`` changes that."""
    _replace(unit, row, row.state.phase)


def move(
    unit: Unit, before: RolloutRow, after: RolloutRow, actor: str, action: str, detail: dict[str, Any]
) -> RolloutRow:
    """Move a rollout to another phase or stage, with the ledger entry that says so; returns it as it is then.

    Raises:
        IllegalTransition: There is no such move.
    """
    source, target = before.state.phase, after.state.phase
    check_move(before.state, target)
    unit.record(actor, action, {"rollout": before.state.id, "from": source.value, "to": target.value, **detail})
    _replace(unit, after, source)
    return after


def _replace(unit: Unit, row: RolloutRow, before: Phase) -> None:
    changed = unit.connection.execute(_REPLACE, {"of": row.state.id, "before": before.value, **_values(row)})
    assert changed.rowcount == 1, f"rollout {row.state.id!r} is not {before.value}"


def get(unit: Unit, name: str) -> RolloutRow | None:
    """Return a rollout by its id."""
    found = unit.connection.execute(_GET, {"name": name}).first()
    return None if found is None else _row(found)


def of_operation(unit: Unit, operation_id: str) -> RolloutRow | None:
    """Return the rollout that an operation started."""
    found = unit.connection.execute(select(rollout).where(rollout.c.operation_id == operation_id)).first()
    return None if found is None else _row(found)


def listed(unit: Unit, specialist: str = "") -> list[RolloutRow]:
    """Return rollouts, of one specialist or all, oldest first."""
    found = unit.connection.execute(_OF, {"name": specialist}) if specialist else unit.connection.execute(_ALL)
    return [_row(row) for row in found]


def opened(unit: Unit, specialist: str = "") -> list[RolloutRow]:
    """Return the rollouts that may still move forward."""
    return [row for row in listed(unit, specialist) if row.is_open]


def moved(row: RolloutRow, **changes: Any) -> RolloutRow:
    """Return a rollout with its domain state changed."""
    return replace(row, state=replace(row.state, **changes))


def add_bundle(unit: Unit, digest: str, specialist: str, cause: str, author: str) -> None:
    """Keep a trained bundle; one that is known already stays as it is."""
    if bundle_row(unit, digest) is None:
        values = {
            "digest": digest,
            "specialist": specialist,
            "state": "trained",
            "cause": cause,
            "author": author,
            "created_ms": unit.now_ms,
        }
        unit.connection.execute(insert(bundle).values(values))


def bundle_row(unit: Unit, digest: str) -> Any:
    """Return what is known of a bundle, or None."""
    return unit.connection.execute(select(bundle).where(bundle.c.digest == digest)).first()


def bundles(unit: Unit, specialist: str) -> list[Any]:
    """Return a specialist's bundles, oldest first."""
    query = select(bundle).where(bundle.c.specialist == specialist).order_by(bundle.c.created_ms, bundle.c.digest)
    return list(unit.connection.execute(query))


def add_evaluation(unit: Unit, digest: str, specialist: str, body: dict[str, Any]) -> None:
    """Keep an evaluation and what it says of its candidate."""
    if evaluation_row(unit, digest) is None:
        values = {
            "digest": digest,
            "specialist": specialist,
            "candidate": body["candidate"],
            "primary": body["primary"],
            "suite": body["suite_digest"],
            "accepted": body["accepted"],
            "body": body,
            "made_ms": unit.now_ms,
        }
        unit.connection.execute(insert(evaluation).values(values))
    state = "accepted" if body["accepted"] else "rejected"
    unit.connection.execute(
        update(bundle).where(bundle.c.digest == body["candidate"]).values(state=state, evaluation=digest)
    )


def evaluation_row(unit: Unit, digest: str) -> Any:
    """Return an evaluation, or None."""
    return unit.connection.execute(select(evaluation).where(evaluation.c.digest == digest)).first()
