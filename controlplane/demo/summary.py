"""What ``summary.json`` says of a run, by topic."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.demo.traffic import Traffic
from protos.contract.plan import TrafficPlan


def of_callers(traffic: Traffic) -> dict[str, Any]:
    """Say what callers saw."""
    seen = traffic.seen
    return {
        "requests": seen.requests,
        "errors": seen.errors,
        "fallbacks": sum(seen.fallbacks.values()),
        "fallback_reasons": dict(seen.fallbacks),
        "client_p50_ms": round(traffic.percentile(50), 2),
        "client_p99_ms": round(traffic.percentile(99), 2),
    }


def of_plans(rows: Sequence[Any], specialist: str) -> dict[str, Any]:
    """Say which plans were applied, and which refused and why."""
    applied, refusals = [], []
    for row in rows:
        if row.state == "refused":
            refusals.append({"reason": row.refused_reason, "generation": row.generation})
            continue
        split = TrafficPlan.from_json(json.loads(row.plan_json)).split_for(specialist)
        if split is not None:
            weights = {name: getattr(split, name) for name in ("primary", "candidate", "canary_bp", "shadow_bp")}
            applied.append({"generation": row.generation, **weights, "approved_by": list(row.approved_by)})
    return {"plans": applied, "refusals": refusals}


def of_drift(readings: Sequence[Any]) -> list[dict[str, Any]]:
    """Say what every check for drift found."""
    return [
        {
            "signal": r.signal,
            "verdict": r.verdict,
            "value": round(r.value, 4),
            "threshold": round(r.threshold, 4),
        }
        for r in readings
    ]


def of_scores(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Set old and new bundle and the control beside each other on shifted data."""
    values = evaluation["values"]["shifted"]
    models = {"old": "primary", "new": "candidate", "control": "control"}
    return [
        {"metric": metric, **{name: values[model][metric]["value"] for name, model in models.items()}}
        for metric in ("macro_f1", "mean_cost", "accuracy")
    ]
