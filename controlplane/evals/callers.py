"""What callers of a real gateway would see of a bundle, on the cases of a labelled run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from controlplane.evals.gateway_trial import GatewayTrial, Trial
from controlplane.evals.labelled import LabelledRun, Progress
from controlplane.evals.metrics import Floats
from controlplane.evals.registry import Answers
from controlplane.evals.robustness import HUGE_BYTES, huge
from protos import decide_pb2
from protos.contract.task import TaskSpec

MOST_HUGE = 10  # calls of 100 kB


def through_gateway(
    asked: LabelledRun,
    task: TaskSpec,
    cases: Sequence[decide_pb2.Input],
    answers: Answers | None,
    progress: Progress,
) -> dict[str, Any]:
    """Ask some cases through a real gateway, and say what callers saw; with answers, also what it cost them."""
    chosen = asked.drawn(len(cases), asked.gateway_cases)
    inputs = [cases[i] for i in chosen]
    oversize = [one for given in inputs[:MOST_HUGE] if (one := huge(task, given)) != given]
    with GatewayTrial(asked.bundles_dir, asked.bundle, asked.front, asked.engines) as gateway:
        trial = gateway.ask(inputs, asked.budget_us or task.deadline_us, lambda n: progress(n / len(inputs), "gateway"))
        at_most = gateway.ask(oversize, asked.budget_us or task.deadline_us)
    found = {
        "cases": len(inputs),
        "budget_ms": trial.budget_ms,
        "latency_ms": quantiles(trial.latencies_ms),
        "cpu_ms": trial.cpu_ms,
        "answered_in_time": float(trial.in_time.mean()),
        "decided_in_time": float(trial.decided_in_time.mean()),
        "fallback_rate": float(trial.fell_back.mean()),
        "fallbacks": trial.fallbacks,
        "failures": trial.failures,
        "oversize": {
            "bytes": HUGE_BYTES,
            "cases": len(oversize),
            "answered": int((at_most.decisions >= 0).sum()),
            "refused": at_most.failures,
        },
    }
    if answers is not None and answers.cost is not None and (trial.decisions >= 0).any():
        found |= _cost_at_gateway(trial, answers.take(chosen))
    return found


def _cost_at_gateway(trial: Trial, answers: Answers) -> dict[str, Any]:
    """Say what the decisions cost that callers really got, fallbacks among them, and what the engine's would have."""
    assert answers.cost is not None
    got = trial.decisions >= 0
    weight = answers.case_weights[got]
    seen = answers.cost[answers.labels[got], trial.decisions[got]]
    return {
        "mean_cost": float(np.average(seen, weights=weight)),
        "mean_cost_of_engine": float(np.average(answers.costs[got], weights=weight)),
    }


def quantiles(latencies: Floats) -> dict[str, float]:
    """Return what is told of latencies."""
    p50, p90, p99 = np.quantile(latencies, [0.5, 0.9, 0.99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}
