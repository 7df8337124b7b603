"""What callers notice of eight states of the deployment, of overload, and of a long run."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.deployment import Deployment, split
from perf.driving import Disturbance, drive
from perf.openloop import Summary
from protos import engine_pb2

MOST_RPS = 1_000.0
SHARE = 0.4  # of the throughput, where that is less
WAIT_S = 0.15  # callers wait longer than the task's 0.1 s, so that a fallback at the deadline still counts
HANG_US = 30_000_000
SWAP_PLAN_S = 0.1
SWAP_BUNDLE_S = 1.0
CANARY_BP = 1_000
ALL_BP = 10_000
STREAMS = 64
CONNECTIONS = 4  # that those streams share
MANY_CONNECTIONS = 32
MOST_GROWTH = 0.05  # of any process over a soak


@dataclass(frozen=True, slots=True)
class State:
    """One state: how to get there, what goes on meanwhile, how to leave it."""

    name: str
    deployment: Deployment
    hold: Callable[[], AbstractContextManager[Disturbance | None]]

    def measure(self, rate: float, seconds: float) -> Summary:
        """Send load in this state."""
        self.deployment.check()
        with self.hold() as disturb:
            return drive(self.deployment.address, disturb, rate=rate, seconds=seconds, warmup=0.5, budget=WAIT_S)


class States:
    """The eight states, on one deployment and on one whose captures cannot be written."""

    def __init__(self, deployment: Deployment, without_sink: Deployment, seconds: float) -> None:
        self._deployment = deployment
        self._without_sink = without_sink
        self._seconds = seconds
        self._primary, self._candidate = deployment.bundle(), deployment.bundle(seed=1)
        self._others = [deployment.bundle(seed=seed) for seed in (2, 3)]
        self._base = split(self._primary, self._candidate, canary_bp=CANARY_BP)
        deployment.control.publish(self._base)
        other = without_sink
        other.control.publish(split(other.bundle(), other.bundle(seed=1), canary_bp=CANARY_BP))

    def all(self) -> list[State]:
        """List them, in the order in which they are reported."""
        here = self._deployment
        return [
            State("idle", here, self._idle),
            State("shadow_on", here, self._shadow_on),
            State("shadow_hung", here, self._shadow_hung),
            State("capture_sink_down", self._without_sink, contextlib.nullcontext),
            State("plan_swap", here, self._plan_swap),
            State("bundle_swap", here, self._bundle_swap),
            State("engine_stalled", here, self._engine_stalled),
            State("rollback", here, self._rollback),
        ]

    @contextlib.contextmanager
    def _idle(self) -> Iterator[None]:
        self._deployment.control.publish(self._base)
        yield

    @contextlib.contextmanager
    def _shadow_on(self) -> Iterator[None]:
        """Every request of the primary is copied."""
        shadowed = split(self._primary, self._candidate, canary_bp=CANARY_BP, shadow_bp=ALL_BP)
        self._deployment.control.publish(shadowed)
        yield

    @contextlib.contextmanager
    def _shadow_hung(self) -> Iterator[None]:
        """Every request is copied to an engine that takes it and never answers."""
        self._deployment.control.publish(split(self._primary, self._candidate, shadow_bp=ALL_BP))
        self._deployment.inject(self._candidate, engine_pb2.FAULT_KIND_DELAY, HANG_US)
        try:
            yield
        finally:
            self._deployment.inject(self._candidate, engine_pb2.FAULT_KIND_NONE)

    @contextlib.contextmanager
    def _plan_swap(self) -> Iterator[Disturbance]:
        control = self._deployment.control
        control.publish(self._base)
        weights = itertools.cycle((CANARY_BP - 100, CANARY_BP))
        # Signed in advance: what is measured is a gateway that takes plans, not one that makes them.
        prepared = [
            control.prepare(split(self._primary, self._candidate, canary_bp=next(weights)))
            for _ in range(int(self._seconds / SWAP_PLAN_S))
        ]
        offers = iter(prepared)

        def swap(is_over: threading.Event) -> None:
            while not is_over.wait(SWAP_PLAN_S) and (offer := next(offers, None)) is not None:
                control.offer(offer)

        yield swap
        for offer in offers:  # each proves what follows the one before, so none may be left out
            control.offer(offer)
        control.publish(self._base)

    @contextlib.contextmanager
    def _bundle_swap(self) -> Iterator[Disturbance]:
        """A new primary every second. Each one is loaded first: only two of three stay loaded."""
        control = self._deployment.control
        control.publish(self._base)
        order = itertools.cycle((self._others[0], self._others[1], self._primary))

        def swap(is_over: threading.Event) -> None:
            before = self._primary
            while not is_over.wait(SWAP_BUNDLE_S):
                primary = next(order)
                control.publish(split(primary, previous=before))
                before = primary

        yield swap
        control.publish(self._base)

    @contextlib.contextmanager
    def _engine_stalled(self) -> Iterator[None]:
        """The only worker stands still, connected; every caller gets the fallback."""
        self._deployment.control.publish(self._base)
        worker = self._deployment.workers[0]
        self._deployment.processes.signal(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            self._deployment.processes.signal(worker, signal.SIGCONT)

    @contextlib.contextmanager
    def _rollback(self) -> Iterator[Disturbance]:
        """A candidate fails while it answers a tenth of the callers, and is taken back."""
        control = self._deployment.control
        control.publish(self._base)

        def fail_and_return(is_over: threading.Event) -> None:
            is_over.wait(self._seconds / 3)
            self._deployment.inject(self._candidate, engine_pb2.FAULT_KIND_ERROR)
            is_over.wait(self._seconds / 3)
            control.publish(split(self._primary))

        try:
            yield fail_and_return
        finally:
            self._deployment.inject(self._candidate, engine_pb2.FAULT_KIND_NONE)
            control.publish(self._base)


def measure_cost(deployment: Deployment, calls: int) -> dict[str, float]:
    """Return the processor time a call costs, in microseconds, by process; says the same on a busy machine."""
    before = deployment.cpu_s()
    found = drive(deployment.address, streams=STREAMS, calls=calls, seconds=3600, warmup=0)
    return {name: round(1e6 * (spent - before[name]) / found.calls, 1) for name, spent in deployment.cpu_s().items()}


def measure_overload(
    deployment: Deployment, peak_rps: float, seconds: float, connections: int = CONNECTIONS
) -> dict[str, Any]:
    """Offer three times what was the most it could do."""
    before = deployment.resident_mb()
    found = overloaded(deployment.address, peak_rps, seconds, connections)
    return {**found, "resident_mb_before": before, "resident_mb_after": deployment.resident_mb()}


def overloaded(address: str, peak_rps: float, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Offer any server three times what was the most it could do, and say what became of the calls.

    ``peak_rps`` was found over CONNECTIONS; over more of them a read brings fewer calls, so each costs more.
    """
    # The budget counts from when a call was due, so waiting for a free stream is the server's time too.
    found = drive(address, rate=3 * peak_rps, seconds=seconds, budget=WAIT_S, connections=connections)
    return {
        "connections": connections,
        "offered_rps": round(3 * peak_rps, 1),
        "goodput_rps": found.answered_rps,
        "goodput_of_peak": round(found.answered_rps / peak_rps, 3),
        "p99_ms": found.p99_ms,
        "shed_p99_ms": found.shed_p99_ms,
        "shed": found.fallbacks + sum(found.errors.get(name, 0) for name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")),
        "errors": found.errors,
        "generator_lag_p99_ms": found.lag_p99_ms,
    }


def measure_soak(deployment: Deployment, calls: int) -> dict[str, Any]:
    """Send very many calls and look at what stays behind."""

    def send(calls: int) -> Summary:
        return drive(deployment.address, streams=STREAMS, calls=calls, seconds=3600, warmup=0)

    send(max(1_000, calls // 10))  # caches, pools and counters fill first
    before, held, tasks = deployment.resident_mb(), deployment.descriptors(), deployment.metric("interlock_tasks")
    found = send(calls)
    after = deployment.resident_mb()
    growth = {name: round(after[name] / before[name] - 1, 4) for name in before if before[name]}
    return {
        "calls": found.calls,
        "errors": found.errors,
        "fallbacks": found.fallbacks,
        "resident_mb_before": before,
        "resident_mb_after": after,
        "growth": growth,
        "has_grown": max(growth.values()) >= MOST_GROWTH,
        "tasks_before": tasks,
        "tasks_after": deployment.metric("interlock_tasks"),
        "open_calls_after": deployment.metric("interlock_open_calls"),
        "descriptors_before": held,
        "descriptors_after": deployment.descriptors(),
        "in_flight_after": deployment.metric("interlock_in_flight"),
        "queued_after": deployment.queued(),
    }


def broken_sink(folder: Path) -> str:
    """Return a capture directory that cannot exist: its parent is a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a-file").write_text("")
    return "a-file/capture"
