"""What has been seen of one specialist's traffic: sketches, outcomes, estimates, drift, what was not kept."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from controlplane.detectors.delay import DelayCurve
from controlplane.detectors.weighting import weighted_mean
from controlplane.errors import RequestInvalid, StepRefused
from controlplane.loop import erasure, label_check
from controlplane.loop.deployment import Deployment
from controlplane.loop.maturity import Maturity, maturity
from controlplane.loop.sketches import WindowSketch
from controlplane.rpc.status import translated
from controlplane.store import ledger, outcomes, performance, readings, segments, sketches
from controlplane.store import samples as sample_rows
from controlplane.store.store import Unit
from protos import decide_pb2, observe_pb2_grpc
from protos import observe_pb2 as pb
from protos.contract.task import TaskSpec

WINDOWS, READINGS, ESTIMATES, CONTRADICTIONS, STEPS = 200, 400, 100, 20, 60
MATURED = 20_000  # decisions that metrics are made of
_HOLDS = {True: "yes", False: "no", None: "unknown"}


class ObserveService(observe_pb2_grpc.ObserveServiceServicer):
    """Reads only."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any]) -> None:
        self._deployment = deployment
        self._in_thread = in_thread

    @translated
    async def GetObservation(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show everything kept of a specialist."""
        pack = self._deployment.pack(request.specialist)

        def whole() -> pb.Observation:
            with self._deployment.store.reading() as unit:
                return _observation(unit, pack.task, self._deployment.clock())

        return await self._in_thread(whole)

    @translated
    async def ReleaseLabels(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take a batch of labels back from where it was held."""
        self._deployment.pack(request.specialist)
        for name in ("requested_by", "reason"):
            if not getattr(request, name).strip():
                raise RequestInvalid(f"{name} is empty, expected text")

        def release() -> bool:
            with self._deployment.store.writing(self._deployment.clock()) as unit:
                return label_check.release(
                    unit, request.specialist, request.source, request.day, request.requested_by, request.reason
                )

        if not await self._in_thread(release):
            raise StepRefused(f"no labels of source {request.source!r} on {request.day!r} are held back")
        return pb.ReleaseLabelsResponse()

    @translated
    async def EraseCaptured(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Destroy the keys of captured inputs."""
        for name in ("requested_by", "reason"):
            if not getattr(request, name).strip():
                raise RequestInvalid(f"{name} is empty, expected text")

        def erase() -> erasure.Erased:
            with self._deployment.store.writing(self._deployment.clock()) as unit:
                return erasure.erase(
                    unit,
                    self._deployment,
                    request.specialist,
                    caller=request.caller,
                    decision=request.decision_id,
                    everything=request.everything,
                    person=request.requested_by,
                    reason=request.reason,
                )

        found = await self._in_thread(erase)
        return pb.ErasedCaptured(keys=found.keys, data_sets=found.data_sets)

    @translated
    async def GetRetention(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say how long inputs can be read."""
        found = erasure.retention(self._deployment, request.specialist)
        return pb.Retention(days=found.days, keys=found.keys, oldest=found.oldest)


def _observation(unit: Unit, task: TaskSpec, now_ms: int) -> pb.Observation:
    name = task.name
    samples, known = sample_rows.count(unit, name)
    found = maturity(unit, name, now_ms)
    return pb.Observation(
        specialist=name,
        samples=samples,
        outcomes=known,
        windows=_windows(sketches.newest(unit, name, WINDOWS)),
        maturity=_maturity(found),
        matured=_matured(unit, task, found, now_ms),
        estimates=[
            pb.Estimate(
                at=_time(row.at_ms),
                value=row.value,
                lower=row.lower,
                upper=row.upper,
                realised=math.nan if row.realised is None else row.realised,
                known=row.known,
                holds=_HOLDS[row.holds],
                why=row.why,
            )
            for row in performance.newest(unit, name, ESTIMATES)
        ],
        readings=[
            pb.Reading(
                at=_time(row.at_ms),
                signal=row.signal,
                verdict=row.verdict,
                value=math.nan if row.value is None else row.value,
                threshold=row.threshold,
                action=row.action,
                bundle=row.bundle,
            )
            for row in readings.newest(unit, name, limit=READINGS)
        ],
        not_kept=_not_kept(unit),
        contradictions=[
            pb.Contradiction(decision_id=row.decision_id, in_force=row.label, said=row.said)
            for row in outcomes.contradicted(unit, name, CONTRADICTIONS)
        ],
        label_batches=[
            pb.LabelBatch(
                source=row.source,
                day=row.day,
                labels=row.labels,
                unlearnable=row.unlearnable,
                expected=row.expected,
                state=row.state,
            )
            for row in label_check.newest(unit, name)
        ],
    )


def _not_kept(unit: Unit) -> list[pb.NotKept]:
    found = [
        pb.NotKept(reason=prefix + row[0], records=row.records, last=_time(row.last_ms))
        for rows, prefix in (
            (segments.quarantined(unit), "quarantined: "),
            (segments.not_captured_by_cause(unit), "not captured: "),
        )
        for row in rows
    ]
    damaged = ledger.of_action(unit.connection, "capture.damaged")
    if damaged:  # how many records were in them nobody can say
        last = damaged[-1].at.isoformat(timespec="milliseconds")
        found.append(pb.NotKept(reason="segments set aside, damaged", records=len(damaged), last=last))
    return found


def _windows(rows: list[Any]) -> list[pb.WindowSummary]:
    first: dict[tuple[int, str], tuple[Any, Any]] = {}
    found = []
    for row in rows:
        sketch = WindowSketch(pb.SketchWindow.FromString(row.body))
        numbers, items = sketch.names()
        shift = math.nan
        if sketch.moments.rows:
            mean, deviation = sketch.mean_vector()
            begun = first.setdefault((row.arm, sketch.moments.embedding), (mean, deviation))
            shift = float(np.linalg.norm(mean - begun[0]) / max(float(np.linalg.norm(begun[1])), 1e-9))
        found.append(
            pb.WindowSummary(
                start=_time(row.start_ms),
                arm=decide_pb2.Arm.Name(row.arm).removeprefix("ARM_").lower(),
                rows=sketch.rows,
                callers=sketch.callers(),
                quantiles=[
                    pb.Quantiles(
                        name=name,
                        **dict(zip(("p05", "p25", "p50", "p75", "p95"), sketch.quantiles(name), strict=False)),
                    )
                    for name in numbers
                ],
                shares=[pb.Shares(name=name, share=sketch.shares(name)) for name in items],
                bytes=len(row.body),
                embedding_shift=shift,
                embedded=sketch.moments.rows,
            )
        )
    return found


def _maturity(found: Maturity) -> pb.Maturity:
    curves = [_curve("all", found.curve)]
    curves += [_curve(f"answered {label or 'fallback'}", curve) for label, curve in found.by_answer.items()]
    curves += [_curve(f"true {label}", curve) for label, curve in found.by_truth.items()]
    return pb.Maturity(
        known=found.curve.known,
        waiting=found.curve.censored,
        due_s=found.due_s or 0.0,
        matured=found.matured,
        censored_share=found.censored_share,
        curves=curves,
    )


def _curve(name: str, curve: DelayCurve) -> pb.Curve:
    chosen = sorted({round(i) for i in np.linspace(0, len(curve.ages) - 1, STEPS)}) if curve.ages else []
    return pb.Curve(
        of=name,
        known=curve.known,
        waiting=curve.censored,
        age_s=[curve.ages[i] for i in chosen],
        arrived=[curve.arrived[i] for i in chosen],
    )


def _matured(unit: Unit, task: TaskSpec, found: Maturity, now_ms: int) -> pb.Matured:
    """Measure over decisions whose outcome is due; each counts by the inverse of its chance of being recorded."""
    if found.due_s is None:
        return pb.Matured(accuracy=math.nan, cost=math.nan, censored_share=math.nan)
    rows = outcomes.weighted(unit, task.name, int(now_ms - 1000 * found.due_s), MATURED)
    known = [row for row in rows if row.truth in task.labels]
    inclusion = [row.inclusion for row in known]
    costs = [
        task.cost[task.labels.index(row.truth)][task.decisions.index(row.decision)]
        if row.decision in task.decisions
        else math.nan
        for row in known
    ]
    return pb.Matured(
        known=len(known),
        accuracy=weighted_mean([float(row.answer == row.truth) for row in known], inclusion),
        cost=weighted_mean(costs, inclusion),
        censored_share=weighted_mean([float(row.truth is None) for row in rows], [row.inclusion for row in rows]),
    )


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
