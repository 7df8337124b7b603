"""How long a rollback takes while callers keep the gateway busy: ``python -m perf.rollback [--rounds N] [--rate R]``.

A local one counts from a person's signed order on its way to the gateway's answer, when no request is assigned to the
candidate any more; an ordinary one from the control plane's offer of the plan to the gateway's word that it is applied.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from perf.deployment import Deployment, split
from perf.driving import drive
from perf.request import MODEL
from perf.results import FOLDER, commit, machine
from protos import traffic_pb2, traffic_pb2_grpc
from protos.contract.plan import Split

CANARY_BP = 1_000
ROUND_S = 0.5  # between two rollbacks: plans that put the canary back
TRIES, AGAIN_S = 20, 0.5


def measure(deployment: Deployment, rounds: int, rate: float) -> dict[str, Any]:
    """Take a canary back again and again, both ways, under load."""
    primary, candidate = deployment.bundle(seed=1), deployment.bundle(seed=2)
    canary = split(primary, candidate, canary_bp=CANARY_BP)
    deployment.control.publish(canary)
    deployment.check()
    found: dict[str, list[float]] = {"local": [], "at_the_gateway": [], "ordinary": []}

    def roll_back(is_over: threading.Event) -> None:
        with grpc.insecure_channel(deployment.address) as channel:
            local = traffic_pb2_grpc.LocalServiceStub(channel)  # type: ignore[no-untyped-call]
            for _ in range(rounds):
                is_over.wait(ROUND_S)
                order = deployment.control.order(MODEL, candidate)
                began = time.perf_counter()
                said = local.RollBack(traffic_pb2.LocalRollbackRequest(order=order), timeout=10)
                found["local"].append(time.perf_counter() - began)
                found["at_the_gateway"].append(said.took_us / 1e6)
                if local.GetInForce(traffic_pb2.GetInForceRequest(specialist=MODEL), timeout=10).candidate_digest:
                    raise RuntimeError("the candidate is still in force")
                deployment.control.publish(split(primary))
                _put_back(deployment, canary)
                found["ordinary"].append(deployment.control.publish(split(primary)))
                _put_back(deployment, canary)
        is_over.wait()

    load = drive(deployment.address, roll_back, rate=rate, seconds=rounds * (ROUND_S + 0.5))
    calls = {"rate": rate, "calls": load.calls, "errors": load.errors, "p99_ms": load.p99_ms}
    return {"rounds": rounds, "load": calls, **{name: _spread_ms(values) for name, values in found.items()}}


def _put_back(deployment: Deployment, canary: Split) -> None:
    """Offer the canary until it is applied, as the control plane does: its engine may still be on its way out."""
    for _ in range(TRIES):
        try:
            deployment.control.publish(canary)
            return
        except RuntimeError:
            time.sleep(AGAIN_S)
    raise RuntimeError(f"the canary was refused {TRIES} times")


def _spread_ms(values: Sequence[float]) -> dict[str, float]:
    return {"median_ms": round(1000 * statistics.median(values), 2), "worst_ms": round(1000 * max(values), 2)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.rollback")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--front", default="envoy")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder) / "site", chosen.front) as deployment:
        found = measure(deployment, chosen.rounds, chosen.rate)
    said = {"commit": commit(), "machine": machine(), "front": chosen.front, **found}
    (FOLDER / "rollback.json").write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
