"""Interlock as it is deployed: gateway and worker on the servers' core, and a control plane that says what we want."""

import asyncio
import queue
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc

from controlplane import worker_socket
from perf import site
from perf.authority import PERSON, Authority
from perf.processes import Processes, cpu_s, descriptors, family, free_port, give_way, resident_mb
from perf.request import MODEL, check_answer
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.attestation import STATEMENT_TYPE, sign
from protos.contract.bundle import BundleStore
from protos.contract.plan import Split
from protos.contract.rollback import RollbackOrder
from protos.contract.task import Field, TaskSpec

DEPLOYMENT = "bench"
START_S = 90.0

TASK = TaskSpec(
    name=MODEL,
    description="A task for a benchmark.",
    fields=(Field("text", "text", True, True),),
    template="{text}",
    labels=("safe", "unsafe"),
    decisions=("allow", "block"),
    cost=((0.0, 0.2), (1.0, 0.0)),
    score_label="unsafe",
    fallback_decision="block",
    fallback_score=1.0,
    on_refusal="fallback",
    max_tokens=32,
    max_input_bytes=2048,
    deadline_us=100_000,
    reserve_us=2_000,
    capture_bp=10_000,
)


def split(
    primary: str,
    candidate: str | None = None,
    previous: str | None = None,
    *,
    specialist: str = MODEL,
    canary_bp: int = 0,
    shadow_bp: int = 0,
    capture_bp: int = 100,
    salt: str = DEPLOYMENT,
) -> Split:
    """Name what differs; one request in a hundred is captured."""
    return Split(
        specialist=specialist,
        primary=primary,
        candidate=candidate,
        previous=previous,
        canary_bp=canary_bp,
        shadow_bp=shadow_bp,
        capture_bp=capture_bp,
        holdback_bp=0,
        salt=salt,
    )


class ControlPlane(traffic_pb2_grpc.TrafficServiceServicer):
    """Signs the plans it is told to and offers them to one gateway. Approves everything they need."""

    def __init__(self) -> None:
        self.authority = Authority(DEPLOYMENT)
        self._offers: queue.Queue[traffic_pb2.PlanOffer | None] = queue.Queue()  # of the stream that began last
        self._unanswered: traffic_pb2.PlanOffer | None = None
        self._acknowledged: queue.Queue[traffic_pb2.Acknowledgement] = queue.Queue()
        self._generation = 0
        # Its threads share a core with the load generator and give way to it.
        self._threads = ThreadPoolExecutor(8, initializer=give_way)
        self._server = grpc.server(self._threads)
        traffic_pb2_grpc.add_TrafficServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def prepare(self, *splits: Split) -> traffic_pb2.PlanOffer:
        """Sign the next plan and whatever approvals it rests on."""
        self._generation += 1
        # A new statement every time: one whose weight was taken back raises nothing any more.
        nonce = f"{DEPLOYMENT}-{self._generation}"
        approvals = [
            self.authority.approval(one, bundle, nonce=nonce)
            for one in splits
            for bundle in {*one.exposure(), one.previous} - {None}
        ]
        return self.authority.offer(self.authority.plan(self._generation, splits), approvals)

    def offer(self, offer: traffic_pb2.PlanOffer) -> float:
        """Have the gateway apply a plan; returns the seconds until it said so."""
        began = time.perf_counter()
        self._unanswered = offer
        self._offers.put(offer)
        try:
            said = self._acknowledged.get(timeout=START_S)
        except queue.Empty:
            raise RuntimeError(f"the gateway did not acknowledge a plan within {START_S:g} s") from None
        if not said.applied:
            raise RuntimeError(f"the gateway refused a plan: {said.reason}: {said.message}")
        return time.perf_counter() - began

    def publish(self, *splits: Split) -> float:
        """Prepare and offer."""
        return self.offer(self.prepare(*splits))

    def order(self, specialist: str, bundle: str) -> traffic_pb2.Envelope:
        """Sign a person's order to leave a bundle at the gateway."""
        now = int(time.time())
        nonce = f"bench-{time.time_ns()}"
        made = RollbackOrder(PERSON, specialist, bundle, DEPLOYMENT, now, now + 600, nonce, "bench")
        return sign(made.payload(), STATEMENT_TYPE, self.authority.approver)

    def close(self) -> None:
        """Stop serving."""
        self._offers.put(None)
        self._server.stop(0.5).wait()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def WatchPlan(self, request: Any, context: Any) -> Iterator[traffic_pb2.PlanOffer]:  # noqa: N802
        """Stream what is offered; on a new stream, what the last one may have lost."""
        offers = self._offers = queue.Queue()
        context.add_callback(lambda: offers.put(None))  # or a stream that ended would wait for ever
        if self._unanswered is not None:
            offers.put(self._unanswered)
        while (offer := offers.get()) is not None:
            yield offer

    def Acknowledge(self, request: Any, context: Any) -> traffic_pb2.AcknowledgeResponse:  # noqa: N802
        """Note what became of a plan."""
        self._unanswered = None
        self._acknowledged.put(request)
        return traffic_pb2.AcknowledgeResponse()

    def Report(self, request: Any, context: Any) -> traffic_pb2.ReportResponse:  # noqa: N802
        """Take a gateway's counters, as a real one would."""
        return traffic_pb2.ReportResponse()


class Deployment:
    """One gateway, its workers and its control plane. Use as a context manager."""

    def __init__(
        self, folder: Path, front: str, *, workers: int = 1, worker_options: Sequence[str] = (), **settings: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = BundleStore(folder / "bundles")
        self.processes = Processes(folder / "logs")
        self._worker_options = tuple(worker_options)
        self.workers = [f"worker-{number}" for number in range(workers)]
        self.control = ControlPlane()
        self.address = ""
        self._metrics_port = free_port()
        self._settings = site.settings(
            self.control.authority,
            self.control.port,
            self.workers,
            front=front,
            metrics_port=self._metrics_port,
            **settings,
        )

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.stop()
        self.control.close()

    def _start(self) -> None:
        site.write(self.folder, self.control.authority, self._settings)
        self.processes.__enter__()
        for name in self.workers:
            self.processes.start(name, site.worker(name, *self._worker_options), self.folder, site.ENVIRONMENT)
        self.processes.start("gateway", site.GATEWAY, self.folder, site.ENVIRONMENT)
        ends = time.monotonic() + START_S
        # A log line in colour or in JSON would do as well.
        while (found := re.search(r"gateway_ready.*?port\W+(\d+)", self.processes.log("gateway"))) is None:
            failed = self.processes.has_failed()
            if failed or time.monotonic() > ends:
                raise RuntimeError(failed or f"the gateway did not start within {START_S:g} s")
            time.sleep(0.05)
        self.address = f"127.0.0.1:{found.group(1)}"

    def bundle(self, **engine: Any) -> str:
        """Add a bundle whose engine costs nothing, unless told otherwise."""
        return site.simulated(self.store, TASK, **engine)

    def check(self) -> None:
        """See that a real client gets a real answer; raises RuntimeError."""
        ends = time.monotonic() + START_S
        while True:
            try:
                check_answer(self.address, 5.0)
                return
            except RuntimeError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    def inject(self, bundle: str, kind: int, delay_us: int = 0) -> None:
        """Break a bundle in every worker, or heal it."""
        for name in self.workers:
            asyncio.run(worker_socket.inject(self._socket(name), bundle, kind, delay_us))

    def queued(self) -> int:
        """Return how many jobs wait in the workers."""
        return sum(asyncio.run(worker_socket.stats(self._socket(name))).queued for name in self.workers)

    def _socket(self, worker: str) -> Path:
        return self.folder / f"{worker}.sock"

    def metric(self, name: str) -> float:
        """Return one gauge or counter, as scraped; labels are part of its name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5) as page:
            text = page.read().decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        if found is None:
            raise RuntimeError(f"the gateway has no metric {name}")
        return float(found.group(1))

    def resident_mb(self) -> dict[str, float]:
        """Return the memory of the gateway, of Envoy before it where there is one, and of the workers."""
        return {name: resident_mb(*pids) for name, pids in self._members().items()}

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each of them has used."""
        return {name: cpu_s(*pids) for name, pids in self._members().items()}

    def _members(self) -> dict[str, list[int]]:
        gateway, *front = family(self.processes.pid("gateway"))
        workers = [member for name in self.workers for member in family(self.processes.pid(name))]
        return {"gateway": [gateway], "front": front, "workers": workers}

    def descriptors(self) -> int:
        """Return how many descriptors the gateway, its front and the workers hold."""
        return sum(descriptors(self.processes.pid(name)) for name in ("gateway", *self.workers))
