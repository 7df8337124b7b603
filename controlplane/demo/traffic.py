"""Live traffic at a constant arrival rate, and what its callers saw."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import grpc
import grpc.aio
import numpy as np

from controlplane.packs.example import Example
from controlplane.packs.registry import Pack
from protos import decide_pb2, decide_pb2_grpc

DEADLINE_S = 0.5  # a caller's own patience; the task's deadline is shorter and ends in a fallback
RECENT_S = 5.0
CALLERS = 5_000
PACING_CALLS = 40
BUSY = 0.25  # share of the time that callers keep an engine busy; shadows, training and evaluation want theirs
LEAST_RATE = 10.0


@dataclass(slots=True)
class Seen:
    """What callers saw since the start."""

    requests: int = 0
    errors: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)


class Traffic:
    """Callers that do not wait for each other: a slow answer delays no later request."""

    def __init__(self, address: str, pack: Pack, rate: float) -> None:
        """Take the gateway's address and the most requests a second; ``rate`` is what comes."""
        self._address = address
        self._pack = pack
        self.rate = rate
        self._stream: Iterator[Example] = pack.stream(1, 0.0)
        self.seen = Seen()
        self._recent: deque[tuple[float, float, int, str]] = deque(maxlen=10_000)

    def shift(self, share: float) -> None:
        """From now on, let this share of requests come from the new wave."""
        self._stream = self._pack.stream(2, share)

    def recent(self) -> list[tuple[float, float, int, str]]:
        """Return (when, latency in ms, arm, bundle) of the last seconds."""
        edge = time.monotonic() - RECENT_S
        return [one for one in self._recent if one[0] >= edge]

    def percentile(self, q: float, *, recent: bool = False) -> float:
        """Return a percentile of the callers' latencies in ms; NaN without any."""
        values = [one[1] for one in self.recent()] if recent else self.seen.latencies_ms
        return float(np.percentile(values, q)) if values else float("nan")

    async def pace(self) -> None:
        """Ask one call after the other, and come no more often from now on than this machine can take all along."""
        took = []
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
            for example in islice(self._pack.stream(3, 0.0), PACING_CALLS):
                asked = self._request(example, test=True)
                began = time.perf_counter()
                with contextlib.suppress(grpc.aio.AioRpcError):  # as slow as its caller's patience
                    await stub.Decide(asked, timeout=DEADLINE_S)
                took.append(time.perf_counter() - began)
        self.rate = max(LEAST_RATE, min(self.rate, BUSY / float(np.median(took))))

    async def run(self) -> None:
        """Send until cancelled."""
        number, started = 0, time.monotonic()
        async with grpc.aio.insecure_channel(self._address) as channel, asyncio.TaskGroup() as calls:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
            while True:
                calls.create_task(self._one(stub, next(self._stream), number))
                number += 1
                # The next arrival is due at its own time, however long this one took.
                await asyncio.sleep(max(0.0, started + number / self.rate - time.monotonic()))

    async def _one(self, stub: decide_pb2_grpc.DecisionServiceStub, example: Example, number: int) -> None:
        name = uuid.uuid4().hex
        request = self._request(example, routing_key=f"caller-{number % CALLERS}", decision_id=name)
        self.seen.requests += 1
        began = time.perf_counter()
        try:
            answer = await stub.Decide(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError:
            self.seen.errors += 1
            return
        taken = 1000 * (time.perf_counter() - began)
        self.seen.latencies_ms.append(taken)
        self._recent.append((time.monotonic(), taken, int(answer.arm), answer.bundle_digest))
        if answer.fallback.used:
            self.seen.fallbacks[decide_pb2.FallbackReason.Name(answer.fallback.reason)] += 1
        # The truth comes later in life; here the caller knows it at once.
        outcome = decide_pb2.ReportOutcomeRequest(
            specialist=self._pack.task.name, decision_id=name, label=example.label, source="demo"
        )
        try:
            await stub.ReportOutcome(outcome, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError:
            return  # an outcome that is lost is one label fewer

    def _request(self, example: Example, **more: Any) -> decide_pb2.DecideRequest:
        return decide_pb2.DecideRequest(
            specialist=self._pack.task.name, input=decide_pb2.Input(text=example.text), **more
        )
