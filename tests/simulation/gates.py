"""Gateways of the simulated deployment: started, replaced, sent plans, rolled back by people beside them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.loop.deployment import Deployment
from controlplane.rpc.traffic import TrafficService
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.serving.cache import DecisionCache
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.lanes import Lanes, LaneSettings
from gateway.serving.witness import Witness
from protos import traffic_pb2
from protos.contract.attestation import STATEMENT_TYPE, sign
from protos.contract.plan import Split
from protos.contract.plan_rules import PlanRefused
from protos.contract.rollback import RollbackOrder
from tests.gateway.serving.plans import PEOPLE, LoadsAll, key

if TYPE_CHECKING:
    from tests.simulation.plant import Plant

NAME = "brand-safety"
PLAN_KEY = key("plan")
METRICS = Metrics()


@dataclass
class Gate:
    """One gateway: its plan, its disk, and what an observer knows of it by his own means."""

    name: str
    root: Path
    plan: Any = None
    generation: int = 0
    head: int = 0
    before: dict[str, int] = field(default_factory=dict)  # weights by bundle
    ever_primary: set[str] = field(default_factory=set)
    way_back: str | None = None  # the primary before, as the plan in force names it
    dead: set[str] = field(default_factory=set)  # statements whose weight was taken back here
    orders: set[str] = field(default_factory=set)  # to leave a bundle, that it obeyed
    is_diverted: bool = False  # it followed a ledger that a thief forked
    current_s: int = 0  # when it last knew of no newer plan than its own
    judged_from_s: int = 0  # the same, at the last look at it
    is_misled: bool = False  # an old database told it that nothing newer stood


def start(plant: "Plant", gate: Gate) -> str:
    """Start a gateway, or restart it with everything else away."""
    before = (gate.plan.generation, gate.plan.witness.head, in_force(plant, gate)) if gate.plan else None

    def now() -> float:
        return plant.now_ms / 1000

    own = key(f"gateway {gate.name}")
    gate.plan = CurrentPlan(
        deployment="test",
        key=PLAN_KEY.public_key(),
        operators=lambda: PEOPLE,
        store=plant.store_of_bundles,
        pool=LoadsAll(),  # type: ignore[arg-type]
        lanes=Lanes(LaneSettings(), 64),
        cache=DecisionCache(0),
        state_dir=gate.root,
        metrics=METRICS,
        witness=Witness("test", PLAN_KEY.public_key(), gateway_id=gate.name, own_key=own, clock=now),
        clock=now,
    )
    plant.run(gate.plan.restore())
    after = gate.plan.generation, gate.plan.witness.head, in_force(plant, gate)
    assert before is None or before == after, f"a restart of {gate.name} changed {before} to {after}"
    return "restarted"


def renew(plant: "Plant", gate: Gate) -> str:
    """Replace a gateway by one that knows nothing."""
    shutil.rmtree(gate.root, ignore_errors=True)
    fresh = Gate(gate.name, gate.root)
    plant.gates[plant.gates.index(gate)] = fresh
    start(plant, fresh)
    return f"{gate.name} anew"


def in_force(plant: "Plant", gate: Gate) -> Split | None:
    routes = gate.plan.routes
    return None if routes is None else routes.plan.split_for(NAME)


def deliver(plant: "Plant", gate: Gate, *, is_heard: bool = True, by: Deployment | None = None) -> str:
    """Let a gateway connect and take what there is; its words may get lost on the way back."""
    server = TrafficService(by or plant.deployment, None, None)  # type: ignore[arg-type]
    head = gate.plan.witness.head
    hello = traffic_pb2.WatchPlanRequest(
        gateway_id=gate.name,
        generation=gate.plan.generation,
        ledger_size=head.size if head else 0,
        operators_version=gate.plan.operators.version,
        witness_key=gate.plan.witness.public_key,
    )
    sent, seen, said = server._hello(hello), hello.ledger_size, []
    for row in server._news(sent):
        seen, offer = server._offer(row, seen, hello.operators_version, gate.name)
        word = traffic_pb2.Acknowledgement(gateway_id=gate.name, plan_digest=row.digest, at_unix_ms=plant.now_ms)
        try:
            word.generation = plant.run(gate.plan.offer(offer)).generation
            word.applied = True
            if by is None and plant.newest is None:
                assert plant.made.setdefault(row.generation, row.digest) == row.digest, (
                    f"two plans of generation {row.generation} are in force"
                )
        except PlanRefused as refused:
            word.reason, word.message = refused.reason, str(refused)
        word.generation_in_force = gate.plan.generation
        word.cosigned_checkpoint = gate.plan.witness.cosigned()
        said.append(word.reason or f"applied {row.generation}")
        if is_heard:
            server._acknowledge(word)
    if is_heard:
        told = server._report(
            traffic_pb2.GatewayReport(
                gateway_id=gate.name,
                run_id="r",
                generation=gate.plan.generation,
                plan_digest=gate.plan.digest,
                rollbacks=gate.plan.to_tell,
            )
        )
        gate.plan.note_newest(told.generation)
        gate.plan.note_recorded(told.recorded)
        if by is not None or plant.newest is not None:
            gate.orders -= set(told.recorded)  # by a database that is not the one that stays
        if 0 < told.generation <= gate.plan.generation:
            gate.current_s = plant.now_ms // 1000
            gate.is_misled |= plant.newest is not None
    return f"{gate.name}: {', '.join(said) or 'no news'}"


def roll_back(plant: "Plant", gate: Gate, name: str) -> str:
    split = in_force(plant, gate)
    if split is None:
        return "nothing in force"
    now = plant.now_ms // 1000
    plant.numbers += 1
    bundle = split.candidate or split.primary
    made = RollbackOrder(name, NAME, bundle, "test", now, now + 600, f"n-{plant.numbers}", "it is wrong")
    try:
        gate.orders.add(gate.plan.roll_back(sign(made.payload(), STATEMENT_TYPE, key(name))).digest)
    except GatewayError as refused:
        return f"refused: {refused}"
    return f"{gate.name} left {bundle[7:13]}"
