"""A gateway and its worker as real processes, and a control plane that says what a test wants."""

import asyncio
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from controlplane import worker_socket
from perf import site
from perf.authority import Authority
from protos import capture_pb2, decide_pb2, decide_pb2_grpc, engine_pb2, traffic_pb2, traffic_pb2_grpc
from protos.contract.bundle import BundleStore
from protos.contract.plan import Split, TrafficPlan
from protos.contract.segment import read_segment
from protos.contract.task import TaskSpec
from tests.processes import Processes
from tests.tasks import TASK

PATIENCE_S = 90.0


@dataclass
class ControlPlane(traffic_pb2_grpc.TrafficServiceServicer):
    """Offers the plans a test puts in; keeps what gateways say."""

    authority: Authority = field(default_factory=lambda: Authority("test"))
    offers: list[traffic_pb2.PlanOffer] = field(default_factory=list)
    approvals: list[traffic_pb2.Envelope] = field(default_factory=list)
    reports: list[traffic_pb2.GatewayReport] = field(default_factory=list)
    current: TrafficPlan | None = None
    generation: int = 0

    def __post_init__(self) -> None:
        self._acknowledged: asyncio.Queue[traffic_pb2.Acknowledgement] = asyncio.Queue()
        self._changed = asyncio.Event()

    def approve(self, split: Split, bundle: str, ceiling_bp: int = 10_000, **changes: Any) -> None:
        """Sign an approval of this split and attach it to every later plan."""
        before = self.current.split_for(split.specialist) if self.current else None
        self.approvals.append(self.authority.approval(split, bundle, before=before, ceiling_bp=ceiling_bp, **changes))

    async def publish(
        self, *splits: Split, key: Ed25519PrivateKey | None = None, generation: int | None = None
    ) -> traffic_pb2.Acknowledgement:
        """Offer a plan and return what the gateway says of it."""
        self.generation = generation if generation is not None else self.generation + 1
        plan = self.authority.plan(self.generation, splits)
        return await self.send(self.authority.offer(plan, self.approvals, key), plan)

    async def send(self, offer: traffic_pb2.PlanOffer, plan: TrafficPlan | None = None) -> traffic_pb2.Acknowledgement:
        """Offer anything and return what the gateway says of it."""
        self.offers.append(offer)
        self._changed.set()
        async with asyncio.timeout(PATIENCE_S):
            acknowledgement = await self._acknowledged.get()
        if acknowledgement.applied and plan is not None:
            self.current = plan
        return acknowledgement

    async def WatchPlan(self, request: Any, context: Any) -> Any:  # noqa: N802
        sent = 0
        while True:
            changed, self._changed = self._changed, asyncio.Event()
            changed.clear()
            self._changed = changed
            for offer in self.offers[sent:]:
                yield offer
            sent = len(self.offers)
            await changed.wait()

    async def Acknowledge(self, request: Any, context: Any) -> traffic_pb2.AcknowledgeResponse:  # noqa: N802
        self._acknowledged.put_nowait(request)
        return traffic_pb2.AcknowledgeResponse()

    async def Report(self, request: Any, context: Any) -> traffic_pb2.ReportResponse:  # noqa: N802
        self.reports.append(request)
        return traffic_pb2.ReportResponse()


class Deployment(Processes):
    """Gateway and workers. Use as an async context manager."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, PATIENCE_S)
        self.store = BundleStore(root / "bundles")
        self.control = ControlPlane()
        self.port = 0
        self._server: Any = None
        self.settings: dict[str, Any] = {}
        self.credentials: grpc.ChannelCredentials | None = None  # of callers, where the gateway has TLS

    def bundle(self, task: TaskSpec = TASK, **engine: Any) -> str:
        """Add a simulator bundle."""
        return site.simulated(self.store, task, **engine)

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        traffic_pb2_grpc.add_TrafficServiceServicer_to_server(self.control, self._server)
        control_port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.settings = site.settings(
            self.control.authority,
            control_port,
            ["worker"],
            **{"capture_flush_s": 0.01, "report_interval_s": 0.1, "drain_delay_s": 0.1, **self.settings},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        await self._server.stop(None)

    def start_worker(self, name: str = "worker", *options: str) -> None:
        """Start an engine worker on the socket of its name."""
        self.spawn(name, site.worker(name, *options), site.ENVIRONMENT)

    async def start_gateway(self) -> None:
        """Start the gateway and wait until it listens."""
        site.write(self.root, self.control.authority, self.settings)
        self.spawn("gateway", site.GATEWAY, site.ENVIRONMENT)
        self.port = int(await self.log_value("gateway", "port="))

    async def scrape(self) -> dict[tuple[Any, ...], float]:
        """Read the metrics of ``settings["metrics_port"]``, by name and then label pairs in order."""

        def read() -> str:
            url = f"http://127.0.0.1:{self.settings['metrics_port']}/metrics"
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
                return str(page.read().decode())

        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await asyncio.to_thread(read))
            for sample in family.samples
        }

    def channel(self) -> grpc.aio.Channel:
        """Open a channel to the gateway."""
        if self.credentials is not None:
            return grpc.aio.secure_channel(f"localhost:{self.port}", self.credentials)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")

    async def decide(self, text: str = "hello", timeout: float = 5.0, **fields: Any) -> decide_pb2.DecideResponse:
        """Ask for one decision."""
        request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text=text), **fields)
        async with self.channel() as channel:
            answer: decide_pb2.DecideResponse = await decide_pb2_grpc.DecisionServiceStub(channel).Decide(
                request, timeout=timeout
            )
        return answer

    async def until_serving(self) -> None:
        """Wait until the gateway says SERVING."""
        async with asyncio.timeout(PATIENCE_S), self.channel() as channel:
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    async def inject(self, bundle: str, kind: int, delay_us: int = 0, worker: str = "worker") -> None:
        """Break a bundle in a worker, on purpose, or heal it."""
        await worker_socket.inject(self.root / f"{worker}.sock", bundle, kind, delay_us)

    async def queued(self) -> int:
        """Ask the worker how many jobs wait for its device."""
        return (await self.stats()).queued

    async def stats(self, worker: str = "worker") -> engine_pb2.Stats:
        """Ask a worker what happened so far."""
        return await worker_socket.stats(self.root / f"{worker}.sock")

    async def captured(self, enough: int) -> list[capture_pb2.CaptureRecord]:
        """Wait for that many capture records and return them."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                paths = sorted((self.root / "capture").glob("*.seg"))
                records = [record for path in paths for record, _ in read_segment(path)]
                if len(records) >= enough:
                    return records
                await asyncio.sleep(0.01)
