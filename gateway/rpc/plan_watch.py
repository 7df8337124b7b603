"""Follows the control plane: takes plans, says what became of them, reports counts. Loses nothing without it."""

import asyncio
import random
import time
from collections.abc import Callable

import grpc
import grpc.aio
import structlog

from gateway.metrics import LATENCY_BOUNDS_US
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import Counters
from gateway.serving.current_plan import CurrentPlan
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.digest import digest_bytes
from protos.contract.ledger_proof import STALE_PROOF
from protos.contract.plan_rules import PlanRefused

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0
ACKNOWLEDGE_TIMEOUT_S = 5.0


class PlanWatch:
    """One control plane, dialled for ever."""

    def __init__(
        self,
        address: str,
        *,
        gateway_id: str,
        run_id: str,
        plan: CurrentPlan,
        counters: Counters,
        capture: CaptureLane,
        report_interval_s: float,
        channel: Callable[[], grpc.aio.Channel] | None = None,
    ) -> None:
        self._gateway_id = gateway_id
        self._run_id = run_id
        self._plan = plan
        self._counters = counters
        self._capture = capture
        self._report_interval_s = report_interval_s
        self._channel = channel or (lambda: grpc.aio.insecure_channel(address))

    async def run(self) -> None:
        """Watch and report until cancelled."""
        async with self._channel() as channel, asyncio.TaskGroup() as tasks:
            stub = traffic_pb2_grpc.TrafficServiceStub(channel)  # type: ignore[no-untyped-call]
            tasks.create_task(self._watch(stub))
            tasks.create_task(self._report(stub))

    async def _watch(self, stub: traffic_pb2_grpc.TrafficServiceStub) -> None:
        wait = RETRY_FIRST_S
        while True:
            try:
                async for offer in stub.WatchPlan(self._hello()):
                    wait = RETRY_FIRST_S
                    said = await self._take(offer)
                    await stub.Acknowledge(said, timeout=ACKNOWLEDGE_TIMEOUT_S)
                    if said.reason == STALE_PROOF:
                        break  # the next hello says which head is held here
            except grpc.aio.AioRpcError as error:
                log.debug("control_plane_away", status=error.code().name)
            # Spread out, so that a fleet does not return to a restarted control plane all at once.
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311
            wait = min(wait * 2, RETRY_MOST_S)

    def _hello(self) -> traffic_pb2.WatchPlanRequest:
        head = self._plan.witness.head
        return traffic_pb2.WatchPlanRequest(
            gateway_id=self._gateway_id,
            generation=self._plan.generation,
            ledger_size=head.size if head is not None else 0,
            operators_version=self._plan.operators.version,
            witness_key=self._plan.witness.public_key,
        )

    async def _take(self, offer: traffic_pb2.PlanOffer) -> traffic_pb2.Acknowledgement:
        started = time.monotonic()
        acknowledgement = traffic_pb2.Acknowledgement(
            gateway_id=self._gateway_id, plan_digest=digest_bytes(offer.plan.payload)
        )
        try:
            plan = await self._plan.offer(offer)
            acknowledgement.applied = True
            acknowledgement.generation = plan.generation
        except PlanRefused as refused:
            acknowledgement.reason = refused.reason
            acknowledgement.message = str(refused)
        acknowledgement.generation_in_force = self._plan.generation
        acknowledgement.at_unix_ms = time.time_ns() // 1_000_000
        acknowledgement.cosigned_checkpoint = self._plan.witness.cosigned()
        acknowledgement.apply_ms = int((time.monotonic() - started) * 1000)
        return acknowledgement

    async def _report(self, stub: traffic_pb2_grpc.TrafficServiceStub) -> None:
        while True:
            await asyncio.sleep(self._report_interval_s)
            report = traffic_pb2.GatewayReport(
                gateway_id=self._gateway_id,
                run_id=self._run_id,
                generation=self._plan.generation,
                plan_digest=self._plan.digest,
                latency_bounds_us=LATENCY_BOUNDS_US,
                arms=self._counters.report(),
                shadows=self._counters.shadow_report(),
                drops=self._capture.all_drops(),
                at_unix_ms=time.time_ns() // 1_000_000,
                rollbacks=self._plan.to_tell,
            )
            try:
                answer = await stub.Report(report, timeout=self._report_interval_s + 1)
                self._plan.note_newest(answer.generation)
                self._plan.note_recorded(answer.recorded)
            except grpc.aio.AioRpcError as error:
                log.debug("report_not_taken", status=error.code().name)
