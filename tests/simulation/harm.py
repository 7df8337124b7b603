"""What thieves and old backups do to the simulated deployment."""

import shutil
from dataclasses import replace
from pathlib import Path

from controlplane.loop.deployment import Deployment
from controlplane.store import ledger, plans, records
from protos.contract.digest import digest_bytes
from protos.contract.ledger_proof import PLAN_OFFERED
from protos.contract.merkle import leaf_hash, root_of
from protos.contract.plan import Split
from protos.contract.plan_rules import sign_plan
from tests.simulation import gates
from tests.simulation.gates import PLAN_KEY, Gate
from tests.simulation.plant import Plant


def smuggle(plant: Plant, wanted: Split, *, is_recorded: bool, deployment: Deployment | None = None) -> str:
    """Write a plan into a database, signed by the plan key, resting on every approval there is."""
    where = deployment or plant.deployment
    with where.store.writing(plant.now_ms) as unit:
        before = plans.standing(unit)
        if before is None:
            return "no plan to change"
        made = replace(
            before.plan,
            generation=plans.last_generation(unit) + 1,
            splits=(wanted,),
            created_at=plant.now_ms // 1000,
        )
        made = replace(
            made, approvals=tuple(sorted({digest_bytes(e.payload) for e in plans.approvals_for(unit, made)}))
        )
        plans.add(unit, sign_plan(made, PLAN_KEY), made, None)
        if is_recorded:
            detail = {"generation": made.generation, "digest": made.digest, "rollout": None, "approvals": []}
            records.note(unit, made.digest, unit.record("interlock-loop", PLAN_OFFERED, detail))
            ledger.checkpoint(unit.connection, where.key, where.ledger_origin)
    return f"plan {made.generation} smuggled"


def fork(plant: Plant, gate: Gate, wanted: Split) -> str:
    """Run a second control plane, with the stolen key, on a copy of the database, for one gateway."""
    plant.flush()
    copy = plant.root / "stolen.db"
    shutil.copy(plant.root / "control.db", copy)
    thief = plant.opened(copy)
    try:
        smuggle(plant, wanted, is_recorded=True, deployment=thief)
        head = gate.plan.witness.head
        said = gates.deliver(plant, gate, by=thief)
        gate.is_diverted |= gate.plan.witness.head != head
    finally:
        thief.store.close()
        for path in plant.root.glob("stolen.db*"):
            path.unlink()
    return said


def old_backup(plant: Plant, copy: Path) -> str:
    """Bring an older copy of the database into place, keeping the newest aside."""
    plant.flush()
    if plant.newest is None:
        plant.newest = plant.root / "newest.db"
        shutil.copy(plant.root / "control.db", plant.newest)
    plant.put_in_place(copy)
    return "an old database runs"


def mend(plant: Plant) -> str:
    """Put the newest database back; whatever was done on the old one is lost, and gateways notice."""
    if plant.newest is None:
        return "nothing to mend"
    plant.deployment.store.close()
    plant.put_in_place(plant.newest)
    plant.newest = None
    with plant.deployment.store.reading() as unit:
        entries = ledger.entries(unit.connection, 0, 1_000_000)
        for gate in plant.gates:
            head = gate.plan.witness.head
            leaves = [leaf_hash(entry.body) for entry in entries[: head.size if head else 0]]
            if head is not None and (len(leaves) < head.size or root_of(leaves) != head.root):
                gate.is_diverted = True
    return "mended"


def backup(plant: Plant) -> Path:
    """Copy the database as it is."""
    plant.flush()
    plant.numbers += 1
    return Path(shutil.copy(plant.root / "control.db", plant.root / f"backup-{plant.numbers}.db"))
