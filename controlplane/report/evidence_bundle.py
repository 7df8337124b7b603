"""Where a candidate comes from and how it scored, as a page of evidence shows it."""

import base64
import html
from pathlib import Path
from typing import Any

from controlplane.report.files import read_json
from controlplane.report.sheet import table
from controlplane.report.svg import COLOURS, Span, legend, reliability, spans
from controlplane.report.words import answered, between, compact, nan_for_none, number
from protos.contract.digest import parse_json_object

MODELS = ("primary", "candidate", "control")
NAMES = {"primary": "primary before", "candidate": "candidate", "control": "classical control"}
# On one scale from 0 to 1; costs and times are told in the table.
DRAWN = ("accuracy", "macro_f1", "weighted_f1", "auc", "average_precision")


def scores(evaluation: dict[str, Any]) -> str:
    """Draw every part's scores with their intervals, and tell them all."""
    parts = []
    for part, models in evaluation["values"].items():
        present = [m for m in MODELS if m in models]
        names = list(models["candidate"])
        rows = [
            Span(
                f"{name} {NAMES[model]}",
                _value(models[model][name]),
                *_interval(models[model][name]),
                colour=COLOURS[MODELS.index(model)],
            )
            for name in names
            if name in DRAWN
            for model in present
            if name in models[model]
        ]
        parts.append(f"<h3>{html.escape(part)}, {evaluation['sizes'].get(part, 0):,} cases</h3>")
        parts.append(spans(rows, bounds=(0.0, 1.0)) + legend([NAMES[m] for m in MODELS]))
        told = [(name, *(_told(models[m].get(name)) for m in present)) for name in names]
        parts.append(table(("metric", *(NAMES[m] for m in present)), told))
    return "".join(parts)


def answered_elsewhere(evaluation: dict[str, Any]) -> str:
    """Tell for which models servers elsewhere answered; a worker, started for the evaluation, did for the others."""
    told = [answered(NAMES[model], about) for model, about in sorted(evaluation.get("elsewhere", {}).items())]
    return "".join(f"<p>{html.escape(one)}</p>" for one in told)


def demands(evaluation: dict[str, Any]) -> str:
    """Tell what the suite asked, and what was found."""
    words = {True: ("pass", "good"), False: ("FAIL", "bad"), None: ("not asked", "none")}
    rows = [
        (words[gate["passed"]], gate["text"], number(gate["found"]), between(gate["low"], gate["high"]))
        for gate in evaluation["gates"]
    ]
    return table(("", "demand", "found", "interval"), rows)


def regressions(evaluation: dict[str, Any]) -> str:
    """Show the cases that got worse."""
    share = evaluation["regressions_share"]
    if share is None:
        return "<p class='none'>There was no primary to compare with.</p>"
    said = f"<p>{share:.1%} of the cases; those that cost most:</p>"
    rows = [
        (
            case["text"],
            case["label"],
            case["primary_decision"],
            case["candidate_decision"],
            f"{case['added_cost']:+.3f}",
        )
        for case in evaluation["worst_regressions"]
    ]
    return said + (table(("case", "truth", "primary", "candidate", "added cost"), rows) if rows else "")


def calibration(evaluation: dict[str, Any]) -> str:
    """Draw how sure models were against how often they were right, part by part."""
    parts = []
    for part, models in evaluation.get("reliability", {}).items():
        curves = {
            NAMES[name]: [(one["sure"], one["right"], one["cases"]) for one in models[name]]
            for name in MODELS
            if models.get(name)
        }
        parts.append(f"<div><h3>{html.escape(part)}</h3>{reliability(curves)}</div>")
    return f"<div class='side'>{''.join(parts)}</div>" if parts else ""


def origin(step: Path) -> str:
    """Tell what the bundle says of itself, what it was made from and how the training went."""
    bundle = read_json(step / "bundle.json")
    facts = {
        **bundle["lineage"],
        "backend": bundle["engine"].get("backend"),
        **{f"base {k}": v for k, v in bundle["base"].items()},
    }
    rows = [(name, value if isinstance(value, str) else compact(value)) for name, value in facts.items()]
    return table(("what", ""), rows) + _materials(step) + _training(step)


def _materials(step: Path) -> str:
    path = step / "provenance.intoto.json"
    if not path.exists():
        return ""
    said = parse_json_object(base64.b64decode(read_json(path)["payload"]))
    rows = [
        (
            one.get("name", one.get("uri", "")),
            ", ".join(f"{k} {v}" for k, v in one.get("annotations", {}).items()),
            compact("sha256:" + one["digest"]["sha256"]) if "digest" in one else "",
        )
        for one in said["predicate"]["buildDefinition"]["resolvedDependencies"]
    ]
    return "<h3>What it was made from</h3>" + table(("material", "", "digest"), rows)


def _training(step: Path) -> str:
    path = step / "training.json"
    if not path.exists():
        return ""
    found = read_json(path)
    machine = found.get("provenance", {})
    told = {
        "examples": found.get("examples"),
        "steps": found.get("steps"),
        "kept step": found.get("best_step"),
        "seconds": number(found.get("seconds")),
        "final loss": number(found.get("final_loss")),
        "seed": machine.get("seed"),
        "machine": f"{machine.get('processor', '')}, {machine.get('cores', '')} cores",
    }
    rows = [(name, value) for name, value in told.items() if value not in (None, "")]
    return "<h3>How the training went</h3>" + table(("", ""), rows)


def _told(said: dict[str, Any] | None) -> str:
    if said is None or said["value"] is None:
        return ""
    low, high = _interval(said)
    return number(said["value"]) + ("" if low is None else f" ({between(low, high)})")


def _value(said: dict[str, Any]) -> float:
    return nan_for_none(said["value"])


def _interval(said: dict[str, Any]) -> tuple[float | None, float | None]:
    found = said["interval"]
    return (None, None) if found is None else (found["low"], found["high"])
