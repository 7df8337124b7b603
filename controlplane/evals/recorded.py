"""Answers of any other model, recorded elsewhere, beside a bundle: what it said, how long it took, what it cost."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.datasets.rows import DataInvalid, read_rows
from controlplane.evals.engine import Scores
from protos.contract.task import TaskSpec


def read_answers(path: Path, task: TaskSpec, names: Sequence[str]) -> tuple[Scores, dict[str, Any]]:
    """Read one answer a case: ``id`` (the case's name) with ``label``, perhaps ``latency_ms`` and ``cost`` of the call.

    An answer that is none of the labels is a failure: it counts as the task's fallback decision and as knowing nothing.

    Args:
        names: The cases, in order.
    Returns:
        Scores, and what is known of failures, latency and cost per decision (in whatever money the file counts).
    Raises:
        DataInvalid: The file cannot be read, a case has no answer or two, or a number is none.
    """
    said: dict[str, dict[str, Any]] = {}
    for number, row in read_rows(path):
        if "id" not in row or "label" not in row:
            raise DataInvalid(f"{path} row {number} has no id or no label, expected both")
        name = str(row["id"])
        if name in said:
            raise DataInvalid(f"{path} row {number}: id {name[:60]!r} is answered twice, expected once")
        said[name] = row
    if missing := [name for name in names if name not in said]:
        raise DataInvalid(f"{path} has no answer to {len(missing)} cases, such as id {missing[0][:60]!r}")
    classes = len(task.labels)
    probabilities = np.full((len(names), classes), 1 / classes)
    decisions = np.full(len(names), task.decisions.index(task.fallback_decision), dtype=np.int64)
    failures = 0
    for i, name in enumerate(names):
        label = str(said[name]["label"]).strip()
        if label not in task.labels:
            failures += 1
            continue
        probabilities[i] = np.eye(classes)[task.labels.index(label)]
        decisions[i] = task.decide(probabilities[i].tolist())
    latencies = _numbers(path, said, names, "latency_ms")
    costs = _numbers(path, said, names, "cost")
    about: dict[str, Any] = {"file": str(path), "failures": failures}
    if latencies.size:
        quantiles = np.quantile(latencies, [0.5, 0.9, 0.99])
        about["latency_ms"] = dict(zip(("p50", "p90", "p99"), map(float, quantiles), strict=True))
    if costs.size:
        about["cost_per_decision"] = float(costs.mean())
    return Scores(probabilities, decisions, np.zeros(len(names))), about


def _numbers(path: Path, said: dict[str, dict[str, Any]], names: Sequence[str], column: str) -> Any:
    """Return a column of every case, or nothing where any lacks it."""
    cells = [said[name].get(column) for name in names]
    if any(cell in (None, "") for cell in cells):
        return np.zeros(0)
    try:
        found = np.array([float(str(cell)) for cell in cells])
    except ValueError as error:
        raise DataInvalid(f"{path} column {column!r}: {error}") from error
    if not all(math.isfinite(value) and value >= 0 for value in found):
        raise DataInvalid(f"{path} column {column!r} holds a value below 0 or not finite, expected a number from 0")
    return found
