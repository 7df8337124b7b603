"""What must hold of a deployment after anything at all, checked from outside: signatures, ledger bodies, weights."""

from functools import lru_cache

from sqlalchemy import select

from controlplane.domain.rollout import LEGAL_MOVES, OPEN, Phase
from controlplane.store import ledger, plans, rollouts
from controlplane.store.tables import approval, sample
from protos import traffic_pb2
from protos.contract.digest import digest_bytes
from protos.contract.merkle import leaf_hash, root_of
from tests.simulation import gates
from tests.simulation.gates import NAME, Gate
from tests.simulation.plant import APPROVERS, Plant

PEOPLE_NEEDED = 2
# Of bytes that were there at the last look too, what they say and hash to is known.
READ, LEAF, ROOT = lru_cache(1_000)(ledger.read_entry), lru_cache(1_000)(leaf_hash), lru_cache(100)(root_of)
STARTS = (Phase.CANDIDATE, Phase.EVALUATED)


def check(plant: Plant) -> None:
    """Raise AssertionError, naming the invariant that does not hold."""
    for gate in plant.gates:
        check_gateway(plant, gate)
    check_captured(plant)
    if plant.newest is None:
        check_record(plant)


def check_captured(plant: Plant) -> None:
    """Whoever was erased can be read in no database there is, an old one included; everybody else can."""
    with plant.deployment.store.reading() as unit:
        rows = unit.connection.execute(
            select(sample.c.decision_id, sample.c.text).where(sample.c.decision_id.in_(list(plant.captured)))
        ).all()
    for name, text in rows:
        expected = "" if name in plant.erased else plant.captured[name][1]
        assert text == expected, f"7: {name} reads {text!r}, expected {expected!r}"


def check_gateway(plant: Plant, gate: Gate) -> None:
    split = gates.in_force(plant, gate)
    assert gate.plan.generation >= gate.generation, f"2: the generation of {gate.name} fell"
    head = gate.plan.witness.head
    assert (head.size if head else 0) >= gate.head, f"6: the head that {gate.name} holds went back"
    gate.generation, gate.head = gate.plan.generation, head.size if head else 0
    if split is None:
        return
    weights = {split.primary: 10_000}
    if split.candidate and split.canary_bp:
        weights[split.candidate] = max(split.canary_bp, weights.get(split.candidate, 0))
    for bundle, weight in weights.items():
        is_back = bundle in gate.ever_primary or bundle == gate.way_back
        rose = weight > gate.before.get(bundle, 0) and not is_back and bool(gate.before)
        check_approved(plant, gate, bundle, weight, rose)
    for bundle in gate.before:
        if bundle not in weights and bundle != split.previous:
            # Taken back: what allowed it is spent here.
            gate.dead |= {a.digest for a in plant.signed if a.bundle == bundle}
    gate.ever_primary.add(split.primary)
    gate.way_back = split.previous
    gate.before = weights
    gate.judged_from_s = gate.current_s


def check_approved(plant: Plant, gate: Gate, bundle: str, weight: int, rose: bool) -> None:
    author = "ann" if bundle == plant.bundles[3] else "trainer"
    good = [
        a
        for a in plant.signed
        if a.bundle == bundle
        and a.ceiling_bp >= weight
        and a.audience == "test"
        and a.person in APPROVERS
        and a.person not in (author, a.author)
    ]
    where = f"{bundle[7:13]} answers {weight} bp at {gate.name}"
    assert len({a.person for a in good}) >= PEOPLE_NEEDED, f"1: {where}, approved by {len(good)}"
    if rose:
        # What was decided while it could not hear counts as it would have counted then.
        since = min(plant.now_ms // 1000, gate.judged_from_s)
        fresh = [a for a in good if since < a.expires and a.digest not in gate.dead]
        assert len({a.person for a in fresh}) >= PEOPLE_NEEDED, f"8: {where}, on what had lapsed or was taken back"


def check_liveness(plant: Plant) -> str:
    """Once nothing is broken any more, every gateway is on the plan that stands; a forked one knows better."""
    with plant.deployment.store.reading() as unit:
        row = plans.standing(unit)
        told = {entry.detail["statement"] for entry in ledger.of_action(unit.connection, "rollback.local")}
    for gate in plant.gates:
        lost = set() if gate.is_diverted else gate.orders - told
        assert not lost, f"5: {gate.name} obeyed {lost}, and the ledger does not say so"
    if row is None:
        return "no plan"
    for gate in plant.gates:
        if gate.is_diverted:
            continue
        where = f"{gate.name} is on plan {gate.plan.generation} of {row.generation}"
        assert gate.plan.generation == row.generation, f"2: {where}"
        assert gate.plan.rollbacks or gates.in_force(plant, gate) == row.plan.split_for(NAME), (
            f"2: {where}, but not wholly"
        )
    return f"plan {row.generation}"


def check_record(plant: Plant) -> None:
    """The ledger tells every move there was, and all that anybody was told is in it."""
    with plant.deployment.store.reading() as unit:
        columns = select(ledger.ledger_entry.c.seq, ledger.ledger_entry.c.body).order_by(ledger.ledger_entry.c.seq)
        found = [READ(seq, body) for seq, body in unit.connection.execute(columns)]
        rows = rollouts.listed(unit, NAME)
        envelopes = unit.connection.execute(select(approval.c.envelope)).scalars()
        kept = {digest_bytes(traffic_pb2.Envelope.FromString(data).payload) for data in envelopes}
    assert [entry.seq for entry in found] == list(range(len(found))), "6: entries are missing"
    leaves = tuple(LEAF(entry.body) for entry in found)
    for gate in plant.gates:
        head = gate.plan.witness.head
        if head is not None and not gate.is_diverted:
            assert head.size <= len(leaves), f"6: {gate.name} saw {head.size} entries of {len(leaves)}"
            assert ROOT(leaves[: head.size]) == head.root, f"6: {gate.name} saw another ledger"
    said = {entry.detail.get("statement") for entry in found if entry.action == "approval.given"}
    assert plant.acknowledged <= said & kept, "5: an approval that was acknowledged is gone"
    told: dict[str, Phase] = {}
    for entry in found:
        name, target = entry.detail.get("rollout"), entry.detail.get("to")
        if target is None:
            continue
        after = Phase(target)
        if entry.action == "rollout.started":
            assert name not in told and after in STARTS, f"{name} started as {target}"
        else:
            before = told[name]
            assert entry.detail["from"] == before.value, f"{name} was {before.value}, entry {entry.seq} leaves {target}"
            assert after in LEGAL_MOVES[before] or (after is before and before in OPEN), f"{name}: {before} to {after}"
        if entry.action in ("rollout.shifted", "rollout.promoted"):
            assert set(entry.detail["approvals"]) <= said, f"{name} rests on approvals that nobody recorded"
            assert len(set(entry.detail["approvals"])) >= PEOPLE_NEEDED, f"{name} rests on too few"
        told[name] = after
    assert told == {row.state.id: row.state.phase for row in rows}, "a rollout moved and the ledger does not say so"
    assert sum(row.is_open for row in rows) <= 1, "two rollouts are open"
    assert sum(row.state.phase is Phase.PRIMARY for row in rows) <= 1, "two rollouts are the primary's"
