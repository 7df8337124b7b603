"""What is kept of a decision once it is made: counts for gates, statistics and metrics, and a record if it is drawn."""

import time
from bisect import bisect_left

from gateway.domain.assignment import Arm
from gateway.domain.decision import Decision
from gateway.errors import PromptRejected
from gateway.metrics import LATENCY_BOUNDS_US, Metrics
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import REASONS, Counters
from gateway.serving.messages import write_decision
from gateway.serving.sampling import Sampler
from gateway.serving.underway import Underway
from protos import capture_pb2, decide_pb2
from protos.contract.digest import input_digest
from protos.contract.draws import pseudonym
from protos.contract.given import Given
from protos.contract.task import TaskSpec

MAX_ID_BYTES = 256


class Recording:
    """Counts exactly, records by draw; nothing here waits."""

    def __init__(self, capture: CaptureLane, sampler: Sampler, counters: Counters, metrics: Metrics) -> None:
        self._capture = capture
        self._sampler = sampler
        self._counters = counters
        self._metrics = metrics

    def answered(self, call: Underway, answer: Decision, now: float) -> None:
        """Count an answer, and record it if it is drawn."""
        taken_us, fallback = answer.total_us, answer.fallback
        in_time = now <= call.until and not fallback
        arm, name, is_test = call.assignment.arm, call.route.task.name, call.question.test
        place = bisect_left(LATENCY_BOUNDS_US, taken_us)
        self._metrics.answered(name, arm, taken_us, place, in_time)
        if fallback:
            self._metrics.fell_back(name, arm, REASONS[fallback])
        call.statistics.ended(taken_us, is_answered=True)
        if is_test:
            return
        self._counters.answered(call.count, place, in_time, REASONS[fallback] if fallback else "")
        if call.route.split.capture_bp and arm is not Arm.OVERRIDE:
            self._draw(call, answer, in_time)

    def failed(self, call: Underway) -> None:
        """Count a call that ends in an error by its route's choice; its time counts as an answer's does."""
        taken_us = int((time.monotonic() - call.arrived) * 1e6)
        place = bisect_left(LATENCY_BOUNDS_US, taken_us)
        self._metrics.failed(call.route.task.name, call.assignment.arm, taken_us, place)
        if not call.question.test:
            self._counters.failed(call.count, place)

    def _draw(self, call: Underway, answer: Decision, in_time: bool) -> None:
        """Record the request if it is drawn: at once, or when its shadow has said whether it agrees."""
        reason, extra_bp = self._sampler.stands_out(answer, len(call.question.input.raw))
        if call.pair is not None and self._sampler.waits_for_shadow:
            at_ms = time.time_ns() // 1_000_000

            def sample(disagreed: bool) -> None:
                self._sample(call, answer, in_time, at_ms, reason, extra_bp, disagreed)

            call.pair.settled = sample
        elif call.assignment.is_captured or extra_bp:
            self._sample(call, answer, in_time, time.time_ns() // 1_000_000, reason, extra_bp, False)

    def _sample(
        self,
        call: Underway,
        answer: Decision,
        in_time: bool,
        at_ms: int,
        reason: str,
        extra_bp: int,
        disagreed: bool,
    ) -> None:
        split, task, given = call.route.split, call.route.task, call.question.input
        drawn = self._sampler.draw(
            split.capture_bp, call.assignment.is_captured, call.decision_id, reason, extra_bp, disagreed
        )
        if drawn is None:
            return
        drawn_for, inclusion = drawn
        sample = capture_pb2.Sample(
            decision_id=call.decision_id,
            specialist=task.name,
            routing_key_hash=pseudonym(split.salt, call.unit),
            input=_declared(task, given),
            input_digest=input_digest(given),
            answer=write_decision(answer),
            at_unix_ms=at_ms,
            inclusion_bp=split.capture_bp,
            salt=split.salt,
            in_time=in_time,
            drawn_for=drawn_for,
            inclusion=inclusion,
        )
        self._capture.offer(capture_pb2.CaptureRecord(sample=sample))

    def outcome(self, task: TaskSpec, request: decide_pb2.ReportOutcomeRequest) -> bool:
        """Record what really happened; false when the capture lane is full. Raises PromptRejected."""
        if not request.decision_id or len(request.decision_id) > MAX_ID_BYTES:
            raise PromptRejected(f"decision_id has {len(request.decision_id)} characters, expected 1 to {MAX_ID_BYTES}")
        if request.label not in task.labels:
            raise PromptRejected(f"label is {request.label[:80]!r}, expected one of {', '.join(task.labels)}")
        now = time.time_ns() // 1_000_000
        outcome = capture_pb2.Outcome(
            decision_id=request.decision_id,
            specialist=request.specialist,
            label=request.label,
            observed_at_unix_ms=request.observed_at_unix_ms or now,
            received_at_unix_ms=now,
            source=request.source[:MAX_ID_BYTES],
        )
        return self._capture.offer(capture_pb2.CaptureRecord(outcome=outcome))


def _declared(task: TaskSpec, given: Given) -> decide_pb2.Input:
    """Copy only the fields whose capture the task declares."""
    allowed = {field.name for field in task.fields if field.capture}
    kept = decide_pb2.Input()
    if given.text and task.fields[0].name in allowed:
        kept.text = given.text
    for name, value in given.fields.items():
        if name in allowed:
            kept.fields[name].CopyFrom(value)
    return kept
