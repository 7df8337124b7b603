"""What gateways ask: plans as they come, and somewhere to say what became of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import acknowledged, found_applied, offer_of
from controlplane.loop.reconcile import reconcile
from controlplane.loop.witness import keep_cosignature, meet_witness
from controlplane.rpc.status import translated
from controlplane.store import counters, plans
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.digest import digest_bytes

log = structlog.get_logger()

POLL_S = 0.25  # plans may also be offered by another process on the same database


class PlanBell:
    """Wakes every watcher; may be rung from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the next ring, or for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return


class TrafficService(traffic_pb2_grpc.TrafficServiceServicer):
    """One stream a gateway; every plan that is newer than its own, in order, once."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any], bell: PlanBell) -> None:
        self._deployment = deployment
        self._in_thread = in_thread
        self._bell = bell

    async def WatchPlan(  # noqa: N802
        self, request: traffic_pb2.WatchPlanRequest, context: Any
    ) -> AsyncIterator[traffic_pb2.PlanOffer]:
        """Stream the standing plan if it is news, then every later one."""
        sent = await self._in_thread(lambda: self._hello(request))
        # What the gateway holds after each offer: it takes a head that continues the last, whatever the plan.
        seen, version = request.ledger_size, request.operators_version
        while True:
            for row in await self._in_thread(lambda: self._news(sent)):  # noqa: B023
                seen, offer = await self._in_thread(
                    lambda: self._offer(row, seen, version, request.gateway_id)  # noqa: B023
                )
                yield offer
                sent = row.generation
            await self._bell.wait(POLL_S)

    @translated
    async def Acknowledge(self, request: traffic_pb2.Acknowledgement, context: Any) -> Any:  # noqa: N802
        """Keep what a gateway says of a plan."""
        await self._in_thread(lambda: self._acknowledge(request))
        return traffic_pb2.AcknowledgeResponse()

    @translated
    async def Report(self, request: traffic_pb2.GatewayReport, context: Any) -> Any:  # noqa: N802
        """Keep a gateway's counters."""
        return await self._in_thread(lambda: self._report(request))

    def _hello(self, request: traffic_pb2.WatchPlanRequest) -> int:
        """Note the gateway and return the generation above which plans are news to it."""
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            plans.see_gateway(unit, request.gateway_id, request.generation)
            meet_witness(unit, request)
            standing = plans.standing(unit)
        # Everything before the standing plan is history; refused ones in between are not offered again.
        return max(request.generation, standing.generation - 1 if standing else 0)

    def _news(self, sent: int) -> list[plans.PlanRow]:
        with self._deployment.store.reading() as unit:
            return [row for row in plans.after(unit, sent) if row.state in (plans.OFFERED, plans.APPLIED)]

    def _offer(self, row: plans.PlanRow, seen: int, operators_version: int, gateway: str) -> tuple[int, Any]:
        with self._deployment.store.reading() as unit:
            held = plans.generation_of(unit, gateway)
            return offer_of(unit, self._deployment, row, seen, operators_version, held)

    def _acknowledge(self, said: traffic_pb2.Acknowledgement) -> None:
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            acknowledged(unit, said)
            keep_cosignature(unit, self._deployment, said)

    def _report(self, report: traffic_pb2.GatewayReport) -> traffic_pb2.ReportResponse:
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            plans.see_gateway(unit, report.gateway_id, report.generation)
            found_applied(unit, report.gateway_id, report.plan_digest)
            counters.keep(unit, report)
            told = [made for made in report.rollbacks if reconcile(unit, self._deployment, report.gateway_id, made)]
            standing = plans.standing(unit)
        if report.rollbacks:
            self._deployment.changed()
        return traffic_pb2.ReportResponse(
            generation=0 if standing is None else standing.generation,
            recorded=[digest_bytes(made.order.payload) for made in told],
        )
