"""The files of evidence, each from what one part of the control plane remembers."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from controlplane.domain import statements
from controlplane.domain.bill_of_materials import bill_of_materials
from controlplane.loop.arms import arm_sums
from controlplane.loop.deployment import Deployment
from controlplane.loop.shadow_report import QUANTILES, shadow_report
from controlplane.store import counters, decisions, jobs, ledger, samples, segments
from controlplane.store import readings as reading_rows
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos.contract.attestation import STATEMENT_TYPE, sign
from protos.contract.digest import canonical_json, digest_bytes, parse_json_object
from protos.contract.operators import envelope_to_json

TRAINED, LOCKED = "bundle.trained", "suite.locked"
BINS = 10
MOST_ANSWERS = 20_000  # newest answers with a known outcome that a live reliability curve is made of
READINGS = 120  # newest drift readings of the primary


def about_bundle(unit: Unit, deployment: Deployment, row: RolloutRow, evaluation: dict[str, Any]) -> dict[str, bytes]:
    """Return the bundle's manifest, data, training, evaluation, and what is signed about them."""
    digest = row.state.candidate
    bundle = deployment.bundles.manifest(digest).to_json()
    files = {
        "bundle.json": canonical_json(bundle),
        "suite.json": deployment.artifacts.get(row.suite),  # what judged it, whatever is in force now
        "evaluation.json": canonical_json(evaluation),
    }
    data = None
    if described := bundle["lineage"].get("data_manifest"):
        # What it was trained on, and what the fence kept out of that.
        files["data.json"] = deployment.artifacts.get(str(described))
        data = parse_json_object(files["data.json"])
    job, training = _training(unit, row.state.specialist, digest)
    if training is not None:
        files["training.json"] = canonical_json(training)
    signed = {
        "provenance.intoto.json": statements.provenance(
            digest,
            bundle,
            data,
            job,
            None if training is None else (digest_bytes(files["training.json"]), training),
            deployment.name,
        ),
        "test-result.intoto.json": statements.test_result(
            digest, bundle, digest_bytes(files["evaluation.json"]), evaluation, _held_out(unit, job)
        ),
    }
    for name, statement in signed.items():
        envelope = sign(canonical_json(statement), STATEMENT_TYPE, deployment.key)
        files[name] = canonical_json(envelope_to_json(envelope))
    made_by = (training or {}).get("provenance", {})
    finished = None if job is None else job["finished"]
    files["mlbom.cdx.json"] = canonical_json(bill_of_materials(digest, bundle, data, evaluation, made_by, finished))
    return files


def about_traffic(unit: Unit, deployment: Deployment, row: RolloutRow) -> dict[str, bytes]:
    """Return what live traffic said: the shadow's pairs, every arm, what was not recorded, drift and its readings."""
    return {
        "shadow.json": canonical_json(_shadow(unit, deployment, row)),
        "canary.json": canonical_json(_arms(unit, row)),
        "drops.json": canonical_json(_drops(unit, row)),
        "drift.json": canonical_json(_drift(unit, deployment, row)),
    }


def entries_about(unit: Unit, row: RolloutRow) -> list[ledger.Entry]:
    """Return the entries that locked the suite before the training, and that speak of the bundle."""
    job, _ = _training(unit, row.state.specialist, row.state.candidate)
    found = [e for action in (TRAINED, "bundle.evaluated") for e in ledger.of_action(unit.connection, action)]
    found = [e for e in found if e.detail.get("bundle") == row.state.candidate]
    if job is not None:
        found += [e for e in ledger.of_action(unit.connection, LOCKED) if e.detail.get("job") == job["id"]]
    return found


def gates_json(row: RolloutRow) -> list[dict[str, Any]]:
    """Return a rollout's latest gate readings."""
    return [
        {
            "gate": r.gate,
            "verdict": r.verdict.value,
            "value": r.value,
            "lower": r.lower,
            "upper": r.upper,
            "limit": r.limit,
            "sample": r.sample,
            "sample_missing": r.sample_missing,
        }
        for r in row.gates
    ]


def _training(unit: Unit, specialist: str, bundle: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the training that made a bundle, and its result; None and None for one made elsewhere."""
    for found in reversed(jobs.listed(unit, specialist)):
        if found.kind == "train" and found.result and found.result.get("bundle_digest") == bundle:
            finished = "" if found.finished_ms is None else _moment(found.finished_ms)
            job = {"id": found.id, "cause": found.cause, "request": found.request, "finished": finished}
            return job, dict(found.result)
    return None, None


def _held_out(unit: Unit, job: dict[str, Any] | None) -> Mapping[str, str]:
    """Return the digests of the held-out parts as they were locked before the training."""
    if job is None:
        return {}
    locked = [e.detail for e in ledger.of_action(unit.connection, LOCKED) if e.detail.get("job") == job["id"]]
    found: dict[str, str] = locked[-1].get("held_out", {}) if locked else {}
    return found


def _shadow(unit: Unit, deployment: Deployment, row: RolloutRow) -> dict[str, Any]:
    found = shadow_report(unit, deployment, row)
    pairs = sorted(found.decisions.items())
    return {
        "pairs": found.pairs,
        "primary_fallbacks": found.primary_fallbacks,
        "failures": found.failures,
        "decisions": [{"primary": p, "candidate": c, "pairs": n} for (p, c), n in pairs],
        "in_time": asdict(found.in_time),
        "slower": asdict(found.slower),
        "known_cost": asdict(found.known_cost),
        "expected_cost_by_primary": asdict(found.expected_by_primary),
        "expected_cost_by_candidate": asdict(found.expected_by_candidate),
        "quantiles": list(QUANTILES),
        "score": asdict(found.score),
        "engine_us": asdict(found.engine_us),
    }


def _arms(unit: Unit, row: RolloutRow) -> dict[str, Any]:
    state = row.state
    arms = [
        {
            "arm": arm,
            "bundle": bundle,
            "requests": one.requests,
            "unanswered": one.unanswered,
            "late": one.late,
            "p50_ms": one.quantile_ms(0.5),
            "p99_ms": one.quantile_ms(0.99),
        }
        for (arm, bundle), one in sorted(arm_sums(unit, state.specialist, state.id).items())
    ]
    named = {"candidate": state.candidate, **({"primary": state.primary} if state.primary else {})}
    live = {name: _reliability(unit, state.specialist, bundle) for name, bundle in named.items()}
    return {"stages_bp": list(state.stages_bp), "shadow_bp": state.shadow_bp, "arms": arms, "reliability": live}


def _reliability(unit: Unit, specialist: str, bundle: str) -> list[dict[str, Any]]:
    """Compare how sure a bundle was of its answers with how often it was right, by bins of confidence."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for answer in samples.answers_with_outcome(unit, specialist, bundle, MOST_ANSWERS):
        bins[min(int(answer.confidence * BINS), BINS - 1)].append((answer.confidence, answer.label == answer.outcome))
    return [
        {"sure": sum(c for c, _ in one) / len(one), "right": sum(r for _, r in one) / len(one), "cases": len(one)}
        for one in bins
        if one
    ]


def _drops(unit: Unit, row: RolloutRow) -> dict[str, Any]:
    """Return what was not recorded, by cause: capture of the whole deployment, and this rollout's shadow."""
    counts = counters.shadow_counts(unit, row.state.specialist, row.state.id)
    causes = sorted({cause for one in counts for cause in one.drops})
    shadow = {name: sum(getattr(one, name) for one in counts) for name in ("offered", "sent", "paired")}
    return {
        "capture": {one.cause: int(one.records) for one in segments.not_captured_by_cause(unit)},
        "shadow": {**shadow, "by_cause": {cause: sum(one.drops.get(cause, 0) for one in counts) for cause in causes}},
    }


def _drift(unit: Unit, deployment: Deployment, row: RolloutRow) -> dict[str, Any]:
    settings = deployment.settings.drift
    budget = {
        "reference": settings.reference,
        "window": settings.window,
        "false_alarm_rate": settings.false_alarm_rate,
        "persistence": settings.persistence,
    }
    specialist, primary = row.state.specialist, row.state.primary
    considered = [
        {"trigger": d.trigger, "code": d.code, "reason": d.reason, "job": d.job, "at": _moment(d.at_ms)}
        for d in decisions.listed(unit, specialist)[-20:]
    ]
    readings = [] if primary is None else reading_rows.newest(unit, specialist, primary, limit=READINGS)
    return {
        "budget": budget,
        "retraining": considered,
        "readings": [
            {
                "signal": r.signal,
                "verdict": r.verdict,
                "value": r.value,
                "threshold": r.threshold,
                "sample": r.sample,
                "summary": r.summary,
                "action": r.action,
                "at": _moment(r.at_ms),
            }
            for r in readings
        ],
    }


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
