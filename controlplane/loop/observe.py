"""Read what gateways captured, each record once: the offset moves in the transaction that keeps the records."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.gates import added_cost
from controlplane.loop.sketches import WindowSketch
from controlplane.store import outcomes as outcome_rows
from controlplane.store import pairs as pair_rows
from controlplane.store import samples as sample_rows
from controlplane.store import segments
from controlplane.store import sketches as sketch_rows
from controlplane.store.samples import Sample
from controlplane.store.store import Unit
from protos import capture_pb2, decide_pb2
from protos.contract.draws import BASIS_POINTS
from protos.contract.segment import SealedSegment, SegmentInvalid, read_segment
from protos.contract.task import InputInvalid, render
from protos.observe_pb2 import SketchWindow

log = structlog.get_logger()

Captured = capture_pb2.CaptureRecord
BATCH = 2_000  # records a transaction: what a kill may make us read again
DAMAGED = -1
ASIDE = "damaged"  # the folder for damaged segments, in the capture folder
REASONS = {number: name.removeprefix("FALLBACK_REASON_").lower() for name, number in decide_pb2.FallbackReason.items()}
ABANDONED_S = 3600.0  # a gateway that wrote nothing for so long has restarted or gone


def observe(deployment: Deployment) -> int:
    """Read every segment to its present end and return how many records were kept."""
    with deployment.store.reading() as unit:
        read = segments.offsets(unit)
    paths = sorted(deployment.settings.capture_dir.glob("*.seg"))
    total = 0
    for path in paths:
        start = read.get(path.name, 0)
        if start == DAMAGED or path.stat().st_size <= start:
            continue
        total += _read(deployment, path, start)
    if total:
        with deployment.store.writing(deployment.clock()) as unit:
            for specialist in deployment.packs:
                sample_rows.prune(unit, specialist, deployment.settings.keep_samples)
            sketch_rows.forget_before(unit, int(unit.now_ms - 1000 * deployment.settings.keep_sketches_s))
    _remove_finished(deployment, paths)
    return total


def _read(deployment: Deployment, path: Path, start: int) -> int:
    kept, offset = 0, start
    while True:
        batch: list[Captured] = []
        problem = ""
        before = offset
        try:
            for record, end in read_segment(path, offset, deployment.opener):
                batch.append(record)
                offset = end
                if len(batch) == BATCH:
                    break
        except SegmentInvalid as error:
            problem = str(error)
        except SealedSegment as error:
            log.warning("capture_sealed", problem=str(error), setting="controlplane.capture_key")
            return kept  # it stays, for when the key is there
        if offset == before and not problem:
            return kept
        with deployment.store.writing(deployment.clock()) as unit:
            keep(unit, deployment, batch, path.name)
            if problem:
                _damaged(unit, path, offset, problem)
            else:
                segments.set_offset(unit, path.name, offset)
        kept += len(batch)
        if problem or len(batch) < BATCH:
            return kept


def _damaged(unit: Unit, path: Path, offset: int, problem: str) -> None:
    """Have a segment set aside, and say from where on it cannot be read."""
    segments.set_offset(unit, path.name, DAMAGED, problem)
    unit.record(LOOP, "capture.damaged", {"segment": path.name, "offset": offset, "problem": problem})
    log.warning("capture_damaged", segment=path.name, problem=problem)


def keep(unit: Unit, deployment: Deployment, records: Sequence[Captured], segment: str) -> None:
    """Keep records; what cannot be used goes to quarantine whole, with the reason, and is lost to nobody."""
    samples: list[Sample] = []
    pairs: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    refused: list[segments.Refused] = []
    for record in records:
        kind = record.WhichOneof("body")
        body = getattr(record, kind) if kind else None
        if body is None:
            detail = "a body this version does not know"
            refused.append(segments.Refused("unknown_record", detail, record.SerializeToString()))
        elif kind == "drops":
            segments.add_not_captured(unit, body.gateway_id, dict(body.by_cause), body.at_unix_ms)
        elif body.specialist not in deployment.packs:
            refused.append(_refused("unknown_specialist", body.specialist, record, body))
        elif kind == "sample":
            samples.append(_sample(deployment, body))
        elif kind == "shadow_pair":
            pairs.append(_pair(deployment, body))
        elif body.label not in deployment.packs[body.specialist].task.labels:
            refused.append(_refused("label_unknown", f"{body.specialist}: {body.label!r}", record, body))
        else:
            outcomes.append(
                {
                    "specialist": body.specialist,
                    "decision_id": body.decision_id,
                    "label": body.label,
                    "source": body.source,
                    "observed_ms": body.observed_at_unix_ms,
                    "received_ms": body.received_at_unix_ms,
                }
            )
    sample_rows.add(unit, samples)
    pair_rows.add(unit, pairs)
    outcome_rows.add(unit, outcomes)
    _sketch(unit, samples, int(1000 * deployment.settings.sketch_window_s))
    if refused:
        segments.quarantine_records(unit, segment, refused)
        counts = Counter(one.reason for one in refused)
        unit.record(LOOP, "capture.quarantined", {"segment": segment, "records": dict(counts)})


def _refused(reason: str, detail: str, record: Captured, body: Any) -> segments.Refused:
    subject = body.routing_key_hash if isinstance(body, capture_pb2.Sample) else ""
    return segments.Refused(reason, detail, record.SerializeToString(), body.specialist, subject)


def _sketch(unit: Unit, samples: Sequence[Sample], window_ms: int) -> None:
    """Add samples to the windows they fall into: those drawn by rate, as others were recorded for being unlike them."""
    windows: dict[tuple[str, int, int], list[Sample]] = {}
    for one in samples:
        if one.drawn_for == sample_rows.BY_RATE:
            key = (one.specialist, one.arm, one.at_ms // window_ms * window_ms)
            windows.setdefault(key, []).append(one)
    for (specialist, arm, start), rows in windows.items():
        saved = sketch_rows.get(unit, specialist, arm, start)
        sketch = WindowSketch(None if saved is None else SketchWindow.FromString(saved))
        column: Any = Sample(*zip(*rows, strict=True))
        numbers = {"score": list(column.score)}
        items = {name: list(getattr(column, name)) for name in ("decision", "label", "bundle")}
        for fields in filter(None, column.fields):
            for name, value in fields.items():
                if isinstance(value, bool):
                    items.setdefault(name, []).append(str(value))
                else:
                    numbers.setdefault(name, []).append(value)
        sketch.add(len(rows), numbers, items, column.subject)
        sketch_rows.put(unit, specialist, arm, start, sketch.rows, sketch.to_message().SerializeToString())


def _sample(deployment: Deployment, said: capture_pb2.Sample) -> Sample:
    given, answer = said.input, said.answer
    try:
        text = render(deployment.packs[said.specialist].task, given)
    except InputInvalid:
        text = ""  # a field that may not be kept is missing; the decision still counts
    score = answer.score
    probabilities = [p.probability for p in answer.probabilities]
    return Sample(
        said.specialist,
        said.decision_id,
        said.salt,
        answer.arm,
        answer.bundle_digest,
        answer.plan_generation,
        text,
        answer.decision,
        score,
        said.at_unix_ms,
        _known(given.fields) if given.fields else None,
        said.routing_key_hash,
        said.input_digest,
        probabilities,
        [(reason.field, reason.log_odds) for reason in answer.reasons] if answer.reasons else (),
        answer.label,
        max(probabilities) if probabilities else score,
        answer.fallback.used,
        said.inclusion or max(said.inclusion_bp, 1) / BASIS_POINTS,
        said.drawn_for or sample_rows.BY_RATE,
    )


def _known(fields: Any) -> dict[str, Any]:
    kinds = ((name, value, value.WhichOneof("kind")) for name, value in fields.items())
    return {name: getattr(value, kind) for name, value, kind in kinds if kind not in (None, "text")}


def _pair(deployment: Deployment, said: capture_pb2.ShadowPair) -> dict[str, Any]:
    task = deployment.packs[said.specialist].task
    failed = bool(said.candidate_failure)
    both = not failed and not said.primary_fallback
    decisions = (said.primary_decision, said.candidate_decision)
    return {
        "specialist": said.specialist,
        "decision_id": said.decision_id,
        "salt": said.salt,
        "candidate": said.candidate_digest,
        "primary_decision": said.primary_decision,
        "candidate_decision": "" if failed else said.candidate_decision,
        "in_time": said.candidate_in_time,
        "failure": REASONS.get(said.candidate_failure, str(said.candidate_failure)) if failed else "",
        "primary_fallback": said.primary_fallback,
        "primary_score": said.primary_score if both else None,
        "candidate_score": said.candidate_score if both else None,
        "primary_engine_us": said.primary_engine_us if both else None,
        "candidate_engine_us": said.candidate_engine_us if both else None,
        "added_by_primary": added_cost(task, said.primary_probabilities, *decisions) if both else None,
        "added_by_candidate": added_cost(task, said.candidate_probabilities, *decisions) if both else None,
        "at_ms": said.at_unix_ms,
    }


def _remove_finished(deployment: Deployment, paths: list[Path]) -> None:
    """Delete segments that are read to their end and that their gateway has left, and forget deleted ones."""
    with deployment.store.reading() as unit:
        read = segments.offsets(unit)
    newest: dict[str, Path] = {}
    for path in paths:
        newest[_run(path)] = path
    gone = set(read) - {path.name for path in paths}
    for path in paths:
        found, offset = path.stat(), read.get(path.name, 0)
        is_left = newest[_run(path)] != path or deployment.clock() / 1000 - found.st_mtime > ABANDONED_S
        if is_left and 0 <= offset < found.st_size and _is_cut(deployment, path, offset):
            with deployment.store.writing(deployment.clock()) as unit:
                _damaged(unit, path, offset, f"{path.name}: ends within a record at {offset}")
            offset = DAMAGED
        if offset == DAMAGED:
            # Kept whole for a person, out of the way of the quota on what is still to be read.
            aside = path.parent / ASIDE
            aside.mkdir(exist_ok=True)
            path.rename(aside / path.name)
        elif is_left and offset == found.st_size:
            path.unlink()
    if gone:
        # The file goes first: an offset without a file is harmless, a file without an offset is read twice.
        with deployment.store.writing(deployment.clock()) as unit:
            segments.forget_offsets(unit, gone)


def _is_cut(deployment: Deployment, path: Path, offset: int) -> bool:
    """Say whether a gateway died while it wrote what is left of a segment, rather than that it cannot be opened."""
    try:
        return next(read_segment(path, offset, deployment.opener), None) is None
    except (SegmentInvalid, SealedSegment):
        return False


def _run(path: Path) -> str:
    """Return the part of ``<milliseconds>-<run>-<n>.seg`` that names the gateway's start."""
    return path.stem.split("-", 1)[1].rsplit("-", 1)[0]
