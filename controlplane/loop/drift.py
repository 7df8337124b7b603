"""Compare live windows with the traffic a primary was approved on; retrain for drift, or say why not."""

import math
from collections.abc import Sequence
from typing import Any

import structlog

from controlplane.detectors import TooFewSamples
from controlplane.detectors.ks import kolmogorov_smirnov
from controlplane.detectors.thresholds import learn_threshold
from controlplane.detectors.two_sample import classifier_two_sample
from controlplane.domain.drift import DriftReading, DriftVerdict, Measurement, read
from controlplane.loop import retrain
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.publish import standing_split
from controlplane.store import jobs, observations, rollouts
from controlplane.store.store import Unit

log = structlog.get_logger()

INPUT, SCORE = "input", "score"
SEED = 11
LEAST_CLASSIFIED = 20


def watch(deployment: Deployment) -> None:
    """Judge every complete window that has not been judged yet."""
    for specialist in deployment.packs:
        while _watch(deployment, specialist):
            pass


def _watch(deployment: Deployment, specialist: str) -> bool:
    """Take one step for one specialist; return whether another may follow at once."""
    settings = deployment.settings.drift
    with deployment.store.reading() as unit:
        split = standing_split(unit, specialist)
        if split is None:
            return False
        bundle = split.primary
        reference = observations.reference(unit, specialist, bundle)
        history = observations.readings(unit, specialist, bundle)
        if reference is None:
            rows = observations.primary_samples(unit, specialist, bundle, 0, settings.reference)
            if len(rows) < settings.reference:
                return False
        else:
            last = history[-1].last_sample if history else reference.last_sample
            rows = observations.primary_samples(unit, specialist, bundle, last, settings.window)
            if len(rows) < settings.window:
                return False
    texts, scores = [row.text for row in rows], [float(row.score) for row in rows]
    # The statistics take seconds, so no transaction is open meanwhile.
    if reference is None:
        thresholds = _learn(deployment, texts, scores)
        with deployment.store.writing(deployment.clock()) as unit:
            if observations.reference(unit, specialist, bundle) is None:
                values = {
                    "specialist": specialist,
                    "bundle": bundle,
                    "last_sample": rows[-1].id,
                    "texts": texts,
                    "scores": scores,
                    "thresholds": thresholds,
                }
                observations.add_reference(unit, values)
                said = {"specialist": specialist, "bundle": bundle, "samples": len(rows), "thresholds": thresholds}
                unit.record(LOOP, "drift.reference", said)
        log.info("drift_reference", specialist=specialist, samples=len(rows), **thresholds)
        return True
    readings = _measure(deployment, reference, history, texts, scores)
    with deployment.store.writing(deployment.clock()) as unit:
        known = observations.readings(unit, specialist, bundle, limit=1)
        if known and known[-1].last_sample >= rows[-1].id:
            return True
        _act(unit, deployment, specialist, bundle, rows[0].id, rows[-1].id, readings)
    return True


def _learn(deployment: Deployment, texts: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    settings = deployment.settings.drift
    resamples = math.ceil(1 / settings.false_alarm_rate) + 9

    def auc(a: Sequence[str], b: Sequence[str]) -> float:
        return classifier_two_sample(a, b, SEED).auc

    found = {}
    if all(texts):
        limit = learn_threshold(auc, texts, settings.window, settings.false_alarm_rate, SEED, resamples)
        found[INPUT] = limit.value
    limit = learn_threshold(
        kolmogorov_smirnov, list(scores), settings.window, settings.false_alarm_rate, SEED, 10 * resamples
    )
    found[SCORE] = limit.value
    return found


def _measure(
    deployment: Deployment, reference: Any, history: Sequence[Any], texts: Sequence[str], scores: Sequence[float]
) -> list[DriftReading]:
    settings = deployment.settings.drift
    found = []
    for signal, threshold in reference.thresholds.items():
        words: tuple[str, ...] = ()
        try:
            if signal == INPUT:
                shift = classifier_two_sample(reference.texts, texts, SEED)
                value, words = shift.auc, shift.words
            else:
                value = kolmogorov_smirnov(reference.scores, scores)
        except TooFewSamples:
            value = math.nan
        past = [Measurement(_number(r.value), r.threshold, r.sample) for r in history if r.signal == signal]
        reading = read(
            signal, [*past, Measurement(value, threshold, len(texts))], settings.persistence, LEAST_CLASSIFIED
        )
        if words and reading.verdict in (DriftVerdict.DRIFT, DriftVerdict.WATCH):
            reading = DriftReading(
                signal,
                reading.verdict,
                reading.value,
                reading.threshold,
                reading.sample,
                f"{reading.summary}; words that speak for now: {', '.join(words)}",
            )
        found.append(reading)
    return found


def _act(
    unit: Unit,
    deployment: Deployment,
    specialist: str,
    bundle: str,
    first: int,
    last: int,
    readings: Sequence[DriftReading],
) -> None:
    """Record every reading with what follows from it, and queue a retraining when one calls for it."""
    drifted = [r.signal for r in readings if r.verdict is DriftVerdict.DRIFT]
    refusal = why_not(unit, deployment, specialist) if drifted else None
    for reading in readings:
        if reading.verdict is not DriftVerdict.DRIFT:
            action = f"not retraining, because {reading.signal} says {reading.verdict.value}"
        else:
            action = f"not retraining, because {refusal}" if refusal else "retraining"
        values = {
            "specialist": specialist,
            "bundle": bundle,
            "last_sample": last,
            "signal": reading.signal,
            "verdict": reading.verdict.value,
            "value": None if math.isnan(reading.value) else reading.value,
            "threshold": reading.threshold,
            "sample": reading.sample,
            "summary": reading.summary,
            "action": action,
        }
        observations.add_reading(unit, values)
        unit.record(LOOP, "drift.read", {k: v for k, v in values.items() if k != "summary"} | {"first_sample": first})
    if drifted and not refusal:
        reason = f"drift of {', '.join(drifted)}"
        retrain.ask(unit, deployment, specialist, cause="drift", reason=reason, author=LOOP, start_rollout=True)
        log.info("drift_found", specialist=specialist, signals=drifted)


def why_not(unit: Unit, deployment: Deployment, specialist: str) -> str | None:
    """Return why drift may not start a retraining now, or None when it may."""
    settings = deployment.settings.drift
    if running := jobs.unfinished(unit, specialist):
        return f"job {running.id} ({running.kind}) is {running.state}"
    if open_now := rollouts.opened(unit, specialist):
        return f"rollout {open_now[0].state.id} is open"
    past = [job for job in jobs.listed(unit, specialist) if job.kind == "train" and job.cause == "drift"]
    if past and unit.now_ms - past[-1].created_ms < settings.cooldown_s * 1000:
        wait = settings.cooldown_s - (unit.now_ms - past[-1].created_ms) / 1000
        return f"the last retraining for drift was job {past[-1].id}, wait {wait:.0f} s more"
    labelled = len(observations.labelled(unit, specialist, 0, settings.least_labelled))
    if labelled < settings.least_labelled:
        return f"{labelled} live samples have a known outcome, expected {settings.least_labelled}"
    return None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
