"""Read what gateways captured, each record once: the offset moves in the transaction that keeps the records."""

from pathlib import Path
from typing import Any

import structlog

from controlplane.loop.deployment import LOOP, Deployment
from controlplane.loop.gates import added_cost
from controlplane.store import observations
from controlplane.store import outcomes as outcome_rows
from controlplane.store.store import Unit
from protos import capture_pb2, decide_pb2
from protos.contract.segment import SegmentInvalid, read_segment
from protos.contract.task import InputInvalid, render

log = structlog.get_logger()

BATCH = 2_000  # records a transaction: what a kill may make us read again
DAMAGED = -1
REASONS = {number: name.removeprefix("FALLBACK_REASON_").lower() for name, number in decide_pb2.FallbackReason.items()}
ABANDONED_S = 3600.0  # a gateway that wrote nothing for so long has restarted or gone


def observe(deployment: Deployment) -> int:
    """Read every segment to its present end and return how many records were kept."""
    with deployment.store.reading() as unit:
        read = observations.offsets(unit)
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
                observations.prune(unit, specialist, deployment.settings.keep_samples)
    _remove_finished(deployment, paths)
    return total


def _read(deployment: Deployment, path: Path, start: int) -> int:
    kept, offset = 0, start
    while True:
        batch: list[capture_pb2.CaptureRecord] = []
        problem = ""
        before = offset
        try:
            for record, end in read_segment(path, offset):
                batch.append(record)
                offset = end
                if len(batch) == BATCH:
                    break
        except SegmentInvalid as error:
            problem = str(error)
        if offset == before and not problem:
            return kept
        with deployment.store.writing(deployment.clock()) as unit:
            _keep(unit, deployment, batch)
            observations.set_offset(unit, path.name, DAMAGED if problem else offset, problem)
            if problem:
                unit.record(LOOP, "capture.damaged", {"segment": path.name, "offset": offset, "problem": problem})
                log.warning("capture_damaged", segment=path.name, problem=problem)
        kept += len(batch)
        if problem or len(batch) < BATCH:
            return kept


def _keep(unit: Unit, deployment: Deployment, records: list[capture_pb2.CaptureRecord]) -> None:
    samples: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for record in records:
        match record.WhichOneof("body"):
            case "sample" if record.sample.specialist in deployment.packs:
                samples.append(_sample(deployment, record.sample))
            case "shadow_pair" if record.shadow_pair.specialist in deployment.packs:
                pairs.append(_pair(deployment, record.shadow_pair))
            case "outcome" if record.outcome.specialist in deployment.packs:
                said = record.outcome
                outcomes.append(
                    {
                        "specialist": said.specialist,
                        "decision_id": said.decision_id,
                        "label": said.label,
                        "source": said.source,
                        "observed_ms": said.observed_at_unix_ms,
                        "received_ms": said.received_at_unix_ms,
                    }
                )
    observations.add_samples(unit, samples)
    observations.add_pairs(unit, pairs)
    outcome_rows.add(unit, outcomes)


def _sample(deployment: Deployment, said: capture_pb2.Sample) -> dict[str, Any]:
    task = deployment.packs[said.specialist].task
    try:
        text = render(task, said.input)
    except InputInvalid:
        text = ""  # a field that may not be kept is missing; the decision still counts
    answer = said.answer
    return {
        "specialist": said.specialist,
        "decision_id": said.decision_id,
        "salt": said.salt,
        "arm": int(answer.arm),
        "bundle": answer.bundle_digest,
        "generation": answer.plan_generation,
        "text": text,
        "fields": {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in said.input.fields.items()
            if value.WhichOneof("kind") not in (None, "text")
        },
        "decision": answer.decision,
        "label": answer.label,
        "confidence": max((p.probability for p in answer.probabilities), default=float(answer.score)),
        "score": float(answer.score),
        "fallback": answer.fallback.used,
        "at_ms": said.at_unix_ms,
    }


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
        read = observations.offsets(unit)
    newest: dict[str, Path] = {}
    for path in paths:
        newest[_run(path)] = path
    gone = set(read) - {path.name for path in paths}
    for path in paths:
        found = path.stat()
        is_left = newest[_run(path)] != path or deployment.clock() / 1000 - found.st_mtime > ABANDONED_S
        if is_left and read.get(path.name, 0) == found.st_size:
            path.unlink()
    if gone:
        # The file goes first: an offset without a file is harmless, a file without an offset is read twice.
        with deployment.store.writing(deployment.clock()) as unit:
            observations.forget_offsets(unit, gone)


def _run(path: Path) -> str:
    """Return the part of ``<milliseconds>-<run>-<n>.seg`` that names the gateway's start."""
    return path.stem.split("-", 1)[1].rsplit("-", 1)[0]
