"""What a bundle that loads costs the live calls of its worker: ``python -m perf.loading STORE``.

A worker answers calls of one bundle at a steady rate, by turns while another one is loaded and unloaded again and
again, and while nothing is. Both come from a store that has two bundles for OpenVINO. Several checkouts (``--trees``)
take turns too, the worker of each kept for all rounds, so that what a change does shows on a busy machine.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.engines.link import WorkerLink
from perf.openloop import percentile
from perf.processes import ROOT, Processes, cpu_s, load_core, on_core
from perf.request import WORDS
from perf.results import commit, machine, spread
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given

START_S = 60.0
BUDGET_US = 10_000_000


@dataclass(slots=True)
class Found:
    """What one worker did in one state, round by round."""

    latency_ms: list[list[float]] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return what is reported of it: percentiles of each round, and of these median, lowest and highest."""
        return {
            "calls": sum(map(len, self.latency_ms)),
            **{f"p{q}_ms": spread(percentile(own, q) or 0.0 for own in self.latency_ms) for q in (50, 90, 99)},
            "cpu_s": round(self.cpu_s, 2),
            "loads": len(self.load_ms),
            "load_p50_ms": percentile(self.load_ms, 50),
        }


class Measured:
    """The worker of one checkout, and two connections to it: of the calls, and of whoever loads."""

    def __init__(self, name: str, tree: Path, store: Path, processes: Processes, scratch: Path) -> None:
        self._socket = scratch / f"{name}.sock"
        argv = ["--socket", str(self._socket), "--bundles", str(store.resolve())]
        environment = {"PYTHONPATH": str(tree)}
        process = processes.start(name, [sys.executable, "-m", "gateway.worker", *argv], scratch, environment)
        self._pid = process.pid
        self._calls, self._loads = WorkerLink(str(self._socket)), WorkerLink(str(self._socket))
        self.found = {"idle": Found(), "loading": Found()}

    async def open(self, served: str) -> None:
        """Connect, and have the bundle ready that is asked."""
        self._tasks = [asyncio.create_task(link.run()) for link in (self._calls, self._loads)]
        async with asyncio.timeout(START_S):
            for link in (self._calls, self._loads):
                await link.connected.wait()
            await self._calls.load(served)

    def close(self) -> None:
        """Leave the worker to whoever started it."""
        for task in self._tasks:
            task.cancel()

    async def measure(self, state: str, served: str, other: str, *, rate: float, seconds: float) -> None:
        """Send calls at a steady rate, in one state."""
        found, before = self.found[state], cpu_s(self._pid)
        is_over = asyncio.Event()
        loading = asyncio.create_task(self._load_until(is_over, other, found)) if state == "loading" else None
        began, calls = time.perf_counter(), []
        for number in range(round(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(self._call(served, due)))
        found.latency_ms.append(await asyncio.gather(*calls))
        is_over.set()
        if loading is not None:
            await loading
        found.cpu_s += cpu_s(self._pid) - before

    async def _call(self, served: str, due: float) -> float:
        """Ask once; returns the milliseconds from when the call was due."""
        _, answer = self._calls.submit(served, Given.of_text(WORDS), BUDGET_US, engine_pb2.PRIORITY_LIVE)
        result = await answer
        if result.status != engine_pb2.RESULT_STATUS_OK:
            raise RuntimeError(f"the worker answered {result}")
        return 1000 * (time.perf_counter() - due)

    async def _load_until(self, is_over: asyncio.Event, other: str, found: Found) -> None:
        while not is_over.is_set():
            began = time.perf_counter()
            await self._loads.load(other)
            found.load_ms.append(1000 * (time.perf_counter() - began))
            self._loads.unload(other)


def _two_bundles(store: BundleStore) -> tuple[str, str]:
    found = [digest for digest in store.digests() if store.manifest(digest).backend == "openvino"]
    if len(found) < 2:
        raise SystemExit(f"perf.loading: {store.root} has {len(found)} bundles for OpenVINO, expected two")
    return found[0], found[1]


async def _in_turns(workers: list[Measured], bundles: tuple[str, str], chosen: argparse.Namespace) -> None:
    served, other = bundles
    for worker in workers:
        await worker.open(served)
    for number in range(chosen.rounds + 1):
        if number == 1:  # the first one warmed
            for worker in workers:
                worker.found = {state: Found() for state in worker.found}
        print(f"round {number} of {chosen.rounds}", file=sys.stderr, flush=True)
        for worker in workers:
            for state in worker.found:
                await worker.measure(state, served, other, rate=chosen.rate, seconds=chosen.seconds)
    for worker in workers:
        worker.close()


def measure(chosen: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure every checkout."""
    bundles = _two_bundles(BundleStore(chosen.store))
    trees = [tree.resolve() for tree in chosen.trees]
    with Processes(scratch / "logs") as processes:
        workers = [Measured(f"worker-{n}", tree, chosen.store, processes, scratch) for n, tree in enumerate(trees)]
        with on_core(load_core()):
            asyncio.run(_in_turns(workers, bundles, chosen))
    return {
        "rate_rps": chosen.rate,
        "machine": machine(),
        "commit": commit(),
        "trees": {
            str(tree): {state: found.summary() for state, found in worker.found.items()}
            for tree, worker in zip(trees, workers, strict=True)
        },
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.loading", description=__doc__)
    parser.add_argument("store", type=Path, help="a bundle store with two bundles for OpenVINO")
    parser.add_argument("--trees", type=Path, nargs="+", default=[ROOT], help="checkouts whose workers take turns")
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each state in a round")
    parser.add_argument("--rounds", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interlock-loading-") as scratch:
        print(json.dumps(measure(chosen, Path(scratch)), indent=2))


if __name__ == "__main__":
    main()
