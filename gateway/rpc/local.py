"""What one person may do at a gateway itself: see the plan in force, and leave a bundle by a signed order."""

import time
from typing import Protocol

from gateway.errors import NoPlanYet, UnknownSpecialist
from gateway.rpc.wire import Call, Kind, Method, parse
from gateway.serving.current_plan import Routes
from gateway.serving.witness import Witness
from protos import traffic_pb2
from protos.contract.operators import Operators
from protos.contract.plan import Split
from protos.contract.rollback import RollbackOrder

SERVICE = "interlock.traffic.v1.LocalService"
LOCAL = f"/{SERVICE}/"
LOCAL_CALLS = 8  # have room of their own: who takes a bundle out of traffic is not kept waiting by that traffic


class LocalPlan(Protocol):
    """The plan in force, and who may leave a bundle of it."""

    routes: Routes | None
    witness: Witness

    @property
    def operators(self) -> Operators:
        """The list of people the gateway goes by."""
        ...

    @property
    def generation(self) -> int:
        """Generation in force."""
        ...

    def roll_back(self, envelope: traffic_pb2.Envelope) -> RollbackOrder:
        """Obey an order; raises RollbackForbidden or NothingToLeave."""
        ...


class LocalService:
    """Answers without the control plane, the database or a disk."""

    def __init__(self, plan: LocalPlan, gateway_id: str) -> None:
        self._plan = plan
        self._gateway_id = gateway_id

    def methods(self) -> tuple[Method, ...]:
        """Return this service's rows of the method table."""
        return (
            Method(f"/{SERVICE}/RollBack", Kind.UNARY, self.roll_back),
            Method(f"/{SERVICE}/GetInForce", Kind.UNARY, self.in_force),
        )

    async def roll_back(self, call: Call, payload: bytes) -> bytes:
        """Leave a bundle because an order signed by a person says so."""
        began = time.monotonic()
        order = self._plan.roll_back(parse(traffic_pb2.LocalRollbackRequest, payload).order)
        found = self._route(order.specialist)
        return traffic_pb2.LocalRollbackResponse(
            gateway_id=self._gateway_id,
            generation=self._plan.generation,
            primary_digest=found.primary,
            took_us=int((time.monotonic() - began) * 1e6),
        ).SerializeToString()

    async def in_force(self, call: Call, payload: bytes) -> bytes:
        """Show one specialist's part of the plan in force."""
        split = self._route(parse(traffic_pb2.GetInForceRequest, payload).specialist)
        assert self._plan.routes is not None
        head = self._plan.witness.head
        return traffic_pb2.InForce(
            gateway_id=self._gateway_id,
            generation=self._plan.generation,
            deployment=self._plan.routes.plan.deployment,
            primary_digest=split.primary,
            candidate_digest=split.candidate or "",
            previous_digest=split.previous or "",
            canary_bp=split.canary_bp,
            shadow_bp=split.shadow_bp,
            ledger_size=head.size if head is not None else 0,
            operators_version=self._plan.operators.version,
        ).SerializeToString()

    def _route(self, specialist: str) -> Split:
        if self._plan.routes is None:
            raise NoPlanYet
        route = self._plan.routes.by_name.get(specialist)
        if route is None:
            raise UnknownSpecialist(specialist)
        return route.split
