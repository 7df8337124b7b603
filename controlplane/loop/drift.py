"""Compare live windows with the traffic a primary was approved on; retrain for drift, or say why not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import structlog

from controlplane.detectors import TooFewSamples
from controlplane.domain.drift import DriftReading, DriftVerdict, Measurement, read
from controlplane.domain.retraining import against
from controlplane.loop import label_check
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.embedding import Embedder
from controlplane.loop.frame import Frame
from controlplane.loop.maturity import matured_before
from controlplane.loop.monitor import CALIBRATION, INPUT, LEAST_LABELLED, SUDDEN, Budget, Monitor, WindowReading
from controlplane.loop.publish import standing_split
from controlplane.loop.sketches import WindowSketch
from controlplane.loop.triggers import decide, facts_of, limits_of
from controlplane.packs.registry import TrainingPack
from controlplane.store import jobs, performance, samples, sketches
from controlplane.store import readings as reading_rows
from controlplane.store.store import Unit
from protos.contract.features import read_fields
from protos.contract.task import TaskSpec
from protos.observe_pb2 import SketchWindow

log = structlog.get_logger()

PRIMARY = 1  # decide.v1 ARM_PRIMARY
SEED = 11
LEAST_MEASURED = 20


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step for one specialist works on: rows of its primary since the last step."""

    bundle: str
    reference: Any  # its row, or None
    rows: list[Any]
    matured: list[Any]
    past: list[Any]  # the reference's own samples, with what has become known of them since
    history: list[Any]


def watch(deployment: Deployment) -> None:
    """Judge every complete window that has not been judged yet, labels before anything is trained on them.

    While a specialist's training or evaluation runs on this machine its windows wait: nothing could follow from
    them, and embedding their texts would slow down what the last ones led to.
    """
    label_check.check(deployment)
    for specialist in deployment.packs:
        while not _is_at_work(deployment, specialist) and _watch(deployment, specialist):
            pass


def _is_at_work(deployment: Deployment, specialist: str) -> bool:
    if deployment.settings.training.executor != "local":
        return False
    with deployment.store.reading() as unit:
        job = jobs.unfinished(unit, specialist)
    return job is not None and bool(job.state == jobs.RUNNING)


def _watch(deployment: Deployment, specialist: str) -> bool:
    """Take one step for one specialist; return whether another may follow at once."""
    step = _next(deployment, specialist)
    if step is None:
        return False
    # Embedding and statistics take seconds, so no transaction is open meanwhile.
    frame = columns_of(deployment.pack(specialist), deployment.embedder, step.rows)
    if step.reference is None or step.reference.embedding != deployment.embedder.name:
        _begin(deployment, specialist, step, frame)
        return True
    budget = _budget(deployment)
    monitor = Monitor.restore(Frame.from_bytes(step.reference.frame), budget, step.reference.state)
    relearned = _relearned(deployment, specialist, step, monitor)
    matured = columns_of(deployment.pack(specialist), deployment.embedder, step.matured) if step.matured else frame[:0]
    found = (relearned or monitor).read(frame, SEED + step.rows[-1].id, matured)
    texts = [row.text for row in step.rows]
    readings = _readings(deployment, step, found, texts)
    state: dict[str, Any] = {"state": (relearned or monitor).state()}
    if relearned is not None:
        state |= {"frame": relearned.reference.to_bytes(), "thresholds": _finite(relearned.thresholds())}
    with deployment.store.writing(deployment.clock()) as unit:
        known = reading_rows.newest(unit, specialist, step.bundle, limit=1)
        if known and known[-1].last_sample >= step.rows[-1].id:
            return True
        reading_rows.set_reference(unit, specialist, step.bundle, state)
        _sketch(unit, deployment, specialist, step.rows, frame)
        if found.performance is not None:
            performance.add(unit, specialist, step.bundle, step.rows[-1].id, asdict(found.performance))
        _act(unit, deployment, specialist, step.bundle, step.rows[0].id, step.rows[-1].id, readings)
    return True


def _next(deployment: Deployment, specialist: str) -> _Step | None:
    settings = deployment.settings.drift
    with deployment.store.reading() as unit:
        split = standing_split(unit, specialist)
        if split is None:
            return None
        bundle = split.primary
        reference = reading_rows.reference(unit, specialist, bundle)
        history = reading_rows.newest_windows(unit, specialist, bundle, settings.persistence)
        matured: list[Any] = []
        past: list[Any] = []
        if reference is None or reference.embedding != deployment.embedder.name:
            after, wanted = 0, settings.reference
        else:
            after, wanted = history[-1].last_sample if history else reference.last_sample, settings.window
            before = matured_before(unit, specialist, deployment.clock())
            if before is not None:
                matured = samples.matured(unit, specialist, bundle, before, reference.last_sample, settings.window)
            if CALIBRATION not in reference.thresholds:
                past = samples.between(unit, specialist, bundle, reference.first_sample, reference.last_sample)
        rows = samples.of_primary(unit, specialist, bundle, after, wanted)
    return _Step(bundle, reference, rows, matured, past, history) if len(rows) == wanted else None


def _budget(deployment: Deployment) -> Budget:
    settings = deployment.settings.drift
    return Budget(settings.window, settings.false_alarm_rate)


def columns_of(pack: TrainingPack, embedder: Embedder, rows: Sequence[Any]) -> Frame:
    """Turn samples into columns: numbers; flags and texts that are one value as categories; other texts as vectors."""
    kept = [field for field in pack.task.fields if field.capture]
    flags = [f.name for f in kept if f.kind == "flag"]
    values = [f.name for f in kept if f.kind == "text" and pack.analysers.get(f.name) == "whole"]
    written = [f.name for f in kept if f.kind == "text" and f.name not in values]
    names = [field.name for field in pack.task.fields]
    said = [_texts(row.text, names) for row in rows] if values or written else []
    labels = [(row.label, row.outcome) for row in rows]
    return Frame(
        numbers={
            f.name: np.array([float(row.fields.get(f.name, -math.inf)) for row in rows])
            for f in kept
            if f.kind in ("number", "integer")
        },
        categories={name: np.array([str(row.fields.get(name, "")) for row in rows]) for name in flags}
        | {name: np.array([found[name] for found in said]) for name in values},
        vectors=embedder.embed([_joined(found, written) for found in said]) if written else None,
        score=np.array([float(row.score) for row in rows]),
        decision=np.array([str(row.decision) for row in rows]),
        confidence=np.array([float(row.confidence) for row in rows]),
        hit=_outcomes([(pack.task.score_label, truth) for _, truth in labels]),
        correct=_outcomes(labels),
    )


def _texts(text: str, names: Sequence[str]) -> Mapping[str, str]:
    """Take a rendered text apart; where its template has no line for each field, every field is the whole."""
    found = read_fields(text, names)
    return found if len(found) == len(names) else dict.fromkeys(names, text)


def _joined(found: Mapping[str, str], names: Sequence[str]) -> str:
    """Put what is written together, each text once."""
    return "\n".join(dict.fromkeys(filter(None, (found[name] for name in names))))


def _outcomes(said: Sequence[tuple[str, str | None]]) -> Any:
    return np.array([math.nan if truth is None else float(answer == truth) for answer, truth in said])


def _begin(deployment: Deployment, specialist: str, step: _Step, frame: Frame) -> None:
    """Learn a reference and its thresholds."""
    monitor = Monitor.learn(frame, _budget(deployment), SEED)
    thresholds = _finite(monitor.thresholds())
    values = {
        "first_sample": step.rows[0].id,
        "last_sample": step.rows[-1].id,
        "texts": [row.sealed_text for row in step.rows if row.sealed_text],
        "embedding": deployment.embedder.name,
        "frame": frame.to_bytes(),
        "state": monitor.state(),
        "thresholds": thresholds,
    }
    with deployment.store.writing(deployment.clock()) as unit:
        known = reading_rows.reference(unit, specialist, step.bundle)
        if known is None:
            reading_rows.add_reference(unit, {"specialist": specialist, "bundle": step.bundle, **values})
        elif known.embedding != deployment.embedder.name:
            reading_rows.set_reference(unit, specialist, step.bundle, values)
        else:
            return
        said = {
            "specialist": specialist,
            "bundle": step.bundle,
            "samples": len(step.rows),
            "embedding": deployment.embedder.name,
            "thresholds": thresholds,
        }
        unit.record(LOOP, "drift.reference", said)
    log.info("drift_reference", specialist=specialist, samples=len(step.rows), **thresholds)


def _relearned(deployment: Deployment, specialist: str, step: _Step, monitor: Monitor) -> Monitor | None:
    """Learn what outcomes of the reference have to say, once enough of them are known."""
    reference = monitor.reference
    if len(step.past) != len(reference):
        return None
    task: TaskSpec = deployment.pack(specialist).task
    correct = _outcomes([(row.label, row.outcome) for row in step.past])
    if float((~np.isnan(correct)).mean()) < LEAST_LABELLED:
        return None
    hit = _outcomes([(task.score_label, row.outcome) for row in step.past])
    return monitor.with_outcomes(hit, correct, SEED)


def _sketch(unit: Unit, deployment: Deployment, specialist: str, rows: Sequence[Any], frame: Frame) -> None:
    """Add the window's embeddings, which were made anyway, to the sketch of the time it ended in."""
    if frame.vectors is None:
        return
    window_ms = int(1000 * deployment.settings.sketch_window_s)
    start = rows[-1].at_ms // window_ms * window_ms
    saved = sketches.get(unit, specialist, PRIMARY, start)
    sketch = WindowSketch(None if saved is None else SketchWindow.FromString(saved))
    sketch.add_vectors(deployment.embedder.name, frame.vectors)
    sketches.put(unit, specialist, PRIMARY, start, sketch.rows, sketch.to_message().SerializeToString())


def _readings(deployment: Deployment, step: _Step, found: WindowReading, texts: Sequence[str]) -> list[DriftReading]:
    persistence = deployment.settings.drift.persistence
    readings = []
    for signal in found.signals:
        if signal.signal == SUDDEN:
            # Its threshold bounds false alarms over all windows already: once is enough.
            reading = read(SUDDEN, [signal.measurement], 1, 1)
            where = f"; most unlike before: {found.sudden_column}"
        else:
            past = [
                Measurement(_number(r.value), r.threshold, r.sample, r.counts_for)
                for r in step.history
                if r.signal == signal.signal
            ]
            reading = read(signal.signal, [*past, signal.measurement], persistence, LEAST_MEASURED)
            where = _words(step, texts) if signal.signal == INPUT else ""
        if where and reading.verdict in (DriftVerdict.DRIFT, DriftVerdict.WATCH):
            reading = replace(reading, summary=reading.summary + where)
        readings.append(reading)
    return readings


def _words(step: _Step, texts: Sequence[str]) -> str:
    from controlplane.detectors.two_sample import classifier_two_sample  # two seconds to import, not needed at start

    try:
        shift = classifier_two_sample(step.reference.texts, texts, SEED)
    except TooFewSamples:
        return ""
    return f"; words that speak for now: {', '.join(shift.words)}" if shift.words else ""


def _finite(thresholds: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in thresholds.items() if math.isfinite(value)}


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
    why = f"drift of {', '.join(drifted)}"
    refused = against("drift", facts_of(unit, deployment, specialist), limits_of(deployment)) if drifted else None
    refusal = refused.reason if refused else None
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
            "counts_for": reading.counts_for,
            "summary": reading.summary,
            "action": action,
        }
        reading_rows.add(unit, values)
        unit.record(LOOP, "drift.read", {k: v for k, v in values.items() if k != "summary"} | {"first_sample": first})
    if drifted:
        decide(unit, deployment, specialist, "drift", why)
        log.info("drift_found", specialist=specialist, signals=drifted)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
