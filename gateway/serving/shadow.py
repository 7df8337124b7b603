"""A bounded mirror: the same request to the candidate, its answer recorded and never returned.

No task and no lock: a pair is two answers that arrive in either order, joined by callbacks.
The lane holds no reference to anything the caller receives.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.domain.decision import Decision, Question
from gateway.engines.pool import Pool
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import Counters, ShadowCount
from gateway.serving.ports import EngineLink, Result, WorkerAway
from protos import capture_pb2, decide_pb2, engine_pb2
from protos.contract.task import TaskSpec


class Pair:
    """One request that two bundles answer."""

    def __init__(
        self,
        lane: "ShadowLane",
        record: capture_pb2.ShadowPair,
        task: TaskSpec,
        budget_us: int,
        count: ShadowCount,
    ) -> None:
        self._lane = lane
        self._record = record
        self._task = task
        self._budget_us = budget_us
        self._count = count
        self._missing = 2
        self._is_dropped = False
        # Told once, after the primary answered, whether the two disagreed; False where that never came out.
        self.settled: Callable[[bool], None] | None = None

    def primary_answered(self, answer: Decision) -> None:
        """Take a copy of what the caller was told."""
        record = self._record
        record.decision_id = answer.decision_id
        record.primary_decision = answer.decision
        record.primary_score = answer.score
        record.primary_label = answer.label
        record.primary_us = answer.queue_us + answer.engine_us
        record.primary_engine_us = answer.engine_us
        record.primary_probabilities.extend(answer.probabilities)
        record.primary_fallback = bool(answer.fallback)
        if self._is_dropped:
            self._settle(False)
        self._arrived()

    def primary_left(self) -> None:
        """Give up: the caller went away or got an error, and half a pair compares nothing."""
        self.drop("shadow_primary_away")

    def candidate_answered(self, result: Result | None, failure: int) -> None:
        """Take the candidate's answer, or why there is none."""
        record = self._record
        if result is None:
            record.candidate_failure = failure  # type: ignore[assignment]
        else:
            record.candidate_decision = self._task.decisions[result.decision]
            record.candidate_label = self._task.labels[result.label]
            record.candidate_score = result.score
            record.candidate_us = result.queue_us + result.engine_us
            record.candidate_engine_us = result.engine_us
            record.candidate_probabilities.extend(result.probabilities)
            # Copies wait behind live requests, so their wait says nothing of the one the candidate would have.
            record.candidate_in_time = result.engine_us <= self._budget_us
        self._arrived()

    def drop(self, cause: str) -> None:
        """Count why this will not be a pair; the first cause is the one."""
        if not self._is_dropped:
            self._is_dropped = True
            self._lane.dropped(self._count, cause)
            if self._missing == 1:
                self._settle(False)

    def _arrived(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self._is_dropped:
            self._lane.finished(self._record, self._count)
            self._settle(self._record.candidate_decision != self._record.primary_decision)

    def _settle(self, disagreed: bool) -> None:
        settled, self.settled = self.settled, None
        if settled is not None:
            settled(disagreed)


class ShadowLane:
    """Offers may be dropped, always with a counted cause; at most ``max_in_flight`` wait."""

    def __init__(self, pool: Pool, capture: CaptureLane, counters: Counters, *, max_in_flight: int) -> None:
        self._pool = pool
        self._capture = capture
        self._counters = counters
        self._max_in_flight = max_in_flight
        self.in_flight = 0

    def offer(
        self, question: Question, primary: str, candidate: str, salt: str, task: TaskSpec, budget_us: int
    ) -> Pair | None:
        """Send a copy to the candidate if the lane has room."""
        count = self._counters.shadow_of(question.specialist, salt, candidate)
        count.offered += 1
        if self.in_flight >= self._max_in_flight:
            self.dropped(count, "shadow_queue_full")
            return None
        # Shadow answers count even when late: that they are late is what shadow is there to find.
        patience_us = 5 * task.deadline_us
        try:
            link = self._pool.pick(candidate)
            number, future = link.submit(candidate, question.input, patience_us, engine_pb2.PRIORITY_SHADOW)
        except WorkerAway:
            self.dropped(count, "shadow_engine_unavailable")
            return None
        count.sent += 1
        record = capture_pb2.ShadowPair(
            specialist=question.specialist,
            salt=salt,
            primary_digest=primary,
            candidate_digest=candidate,
            at_unix_ms=time.time_ns() // 1_000_000,
        )
        pair = Pair(self, record, task, budget_us, count)
        self.in_flight += 1
        timer = asyncio.get_running_loop().call_later(patience_us / 1e6, link.cancel, number)
        future.add_done_callback(lambda done: self._answered(done, pair, timer, link))
        return pair

    def _answered(
        self, done: "asyncio.Future[Result]", pair: Pair, timer: asyncio.TimerHandle, link: EngineLink
    ) -> None:
        self.in_flight -= 1
        timer.cancel()
        if done.cancelled() or (done.exception() is None and done.result().status == engine_pb2.RESULT_STATUS_EXPIRED):
            # No spare time on the device, or an engine that hangs: nobody knows which, so it is no pair.
            pair.drop("shadow_late")
        elif done.exception() is not None or done.result().status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE:
            # All copies under way end together when a worker goes, whoever's fault it was: no independent failures.
            pair.drop("shadow_engine_unavailable")
        elif done.result().status != engine_pb2.RESULT_STATUS_OK:
            pair.candidate_answered(None, decide_pb2.FALLBACK_REASON_ENGINE_ERROR)
        else:
            pair.candidate_answered(done.result(), 0)

    def not_asked(self, specialist: str, salt: str, candidate: str) -> None:
        """Count a request drawn for the shadow that no engine had to answer."""
        count = self._counters.shadow_of(specialist, salt, candidate)
        count.offered += 1
        self.dropped(count, "shadow_cached")

    def dropped(self, count: ShadowCount, cause: str) -> None:
        """Count a request that was to be shadowed and is no pair."""
        count.drops[cause] += 1
        self._capture.drop(cause)

    def finished(self, record: capture_pb2.ShadowPair, count: ShadowCount) -> None:
        """Record a complete pair."""
        agreed = record.candidate_decision == record.primary_decision
        if self._capture.offer(capture_pb2.CaptureRecord(shadow_pair=record)):
            count.paired += 1
            count.disagreed += not agreed
            count.late += not record.candidate_in_time
        else:
            count.drops["capture_queue_full"] += 1
