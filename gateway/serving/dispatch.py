"""The request path: assign, admit, mirror, decide, record.

Nothing here waits for a disk, the control plane or a shadow. The plan is read once.
"""

import itertools
import secrets
import time
from collections.abc import AsyncIterator

from gateway.domain.assignment import Arm, Assignment, assign, override
from gateway.domain.decision import Decision, Question
from gateway.engines.pool import Pool
from gateway.errors import (
    DeadlinePassed,
    Draining,
    NoPlanYet,
    OverrideRefused,
    PromptRejected,
    UnknownSpecialist,
)
from gateway.serving import generation
from gateway.serving.asking import Asking
from gateway.serving.counters import ArmCount, Counters
from gateway.serving.current_plan import CurrentPlan, Route
from gateway.serving.ports import Result
from gateway.serving.recording import MAX_ID_BYTES, Recording
from gateway.serving.statistics import SpecialistStatistics, Statistics
from gateway.serving.underway import NoAnswer, Underway
from protos import decide_pb2
from protos.contract.given import Given
from protos.contract.task import InputInvalid, TaskSpec, check_input


class Dispatcher:
    """Answers decisions from the plan in force."""

    def __init__(self, plan: CurrentPlan, pool: Pool, asking: Asking, recording: Recording, counters: Counters) -> None:
        self._plan = plan
        self._pool = pool
        self._asking = asking
        self._recording = recording
        self._counters = counters
        self._statistics = Statistics()
        self._run = secrets.token_hex(8)  # of this process; numbers then make ids that nobody else gives
        self._numbers = itertools.count(1)
        self.draining = False

    @property
    def in_flight(self) -> int:
        """How many calls are being decided."""
        return self._asking.in_flight

    async def decide(
        self, question: Question, deadline: float | None, arrived: float | None = None, wanted: str = ""
    ) -> Decision:
        """Answer one question.

        Args:
            deadline: Monotonic seconds from the transport; None when the caller set none.
            arrived: When the front had the call, from which the task's own time counts; None where that is now.
            wanted: The bundle that an authorised tester named; empty lets the draw decide.
        Raises:
            GatewayError: What the caller did wrong, or why there is no answer where the route
                asks for errors instead of fallbacks.
        """
        call = self._begin(question, deadline, arrived, wanted)
        if call.assignment.arm is Arm.HOLDBACK:
            return self._hold_back(call)
        asking = self._asking
        answer: Decision | None = None
        asking.in_flight += 1
        try:
            cache = None if wanted else call.route.cache
            result = await (asking.admit(call) if cache is None else asking.recall(cache, call))
        except NoAnswer as failure:
            if call.route.task.on_refusal == "error":
                self._recording.failed(call)
                raise failure.error from None
            now = time.monotonic()
            answer = _fallback(call, failure.reason, now)
        else:
            now = time.monotonic()
            answer = _answer(call, result, now)
        finally:
            asking.in_flight -= 1
            if answer is None:  # the caller left, or got an error
                call.statistics.ended(int((time.monotonic() - call.arrived) * 1e6), is_answered=False)
                if call.pair is not None:
                    call.pair.primary_left()  # half a pair compares nothing
        self._recording.answered(call, answer, now)
        if call.pair is not None:
            call.pair.primary_answered(answer)
        return answer

    def _begin(self, question: Question, deadline: float | None, arrived: float | None, wanted: str) -> Underway:
        now = time.monotonic()
        if arrived is None:
            arrived = now
        specialist, given, routing_key, decision_id, budget_us, _ = question
        route = self.route(specialist)
        task, size = route.task, len(given.raw)
        try:
            check_input(task, given, size)
        except InputInvalid as error:
            raise PromptRejected(str(error)) from error
        if len(routing_key) > MAX_ID_BYTES or len(decision_id) > MAX_ID_BYTES:
            name, length = max(
                ("routing_key", len(routing_key)), ("decision_id", len(decision_id)), key=lambda pair: pair[1]
            )
            raise PromptRejected(f"{name} has {length} characters, expected at most {MAX_ID_BYTES}")
        until = arrived + min(budget_us or task.deadline_us, task.deadline_us) / 1e6
        if deadline is not None:
            if deadline <= now:  # nobody is there for a fallback
                raise DeadlinePassed(0)
            until = min(until, deadline)
        decision_id = decision_id or f"{self._run}{next(self._numbers):016x}"
        unit = routing_key or decision_id
        if wanted:
            assignment, count = _overridden(route, wanted, unit), ArmCount()
        else:
            assignment = assign(route.split, unit)
            count = self._counters.of(task.name, route.split.salt, assignment.arm, assignment.bundle)
        lane = route.lanes[assignment.bundle]
        respond_by = self._asking.deadlines.respond_by(now, until, task.reserve_us / 1e6)
        return Underway(
            question, route, assignment, lane, lane.times.of(size), decision_id, unit, arrived, until,
            respond_by, int((respond_by - now) * 1e6), count, self._statistics.of(task.name),
        )  # fmt: skip

    def _hold_back(self, call: Underway) -> Decision:
        """Answer without any model, whatever state the engines are in."""
        now = time.monotonic()
        answer = _fallback(call, decide_pb2.FALLBACK_REASON_HOLDBACK, now)
        answer = answer._replace(decision=call.route.task.holdback_decision or answer.decision)
        self._recording.answered(call, answer, now)
        return answer

    def generate(
        self,
        request: decide_pb2.GenerateRequest,
        deadline: float | None,
        arrived: float | None = None,
        wanted: str = "",
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        """Stream text from the bundle that the request is assigned to; raises GatewayError. Times as in ``decide``."""
        question = Question(
            request.specialist, Given.of(request.input), request.routing_key, request.decision_id, request.budget_us
        )
        return generation.generate(self._pool, self._begin(question, deadline, arrived, wanted), request)

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        """Record what really happened; false when the capture lane is full."""
        return self._recording.outcome(self.route(request.specialist).task, request)

    def route(self, specialist: str) -> Route:
        """Return a specialist's route; raises Draining, NoPlanYet or UnknownSpecialist."""
        if self.draining:
            raise Draining
        routes = self._plan.routes
        if routes is None:
            raise NoPlanYet
        route = routes.by_name.get(specialist)
        if route is None:
            raise UnknownSpecialist(specialist)
        return route

    def task(self, specialist: str) -> TaskSpec:
        """Return a specialist's task; raises as ``route`` does."""
        return self.route(specialist).task

    def statistics(self, specialist: str) -> SpecialistStatistics:
        """Return what a specialist did since this process started; raises as ``route`` does."""
        return self._statistics.of(self.route(specialist).task.name)

    def all_statistics(self) -> dict[str, SpecialistStatistics]:
        """Return what was counted of every specialist."""
        return self._statistics.all()

    def specialists(self) -> tuple[str, ...]:
        """List the specialists of the plan in force."""
        return tuple(self._plan.routes.by_name) if self._plan.routes is not None else ()

    def is_ready(self) -> bool:
        """Say whether every specialist's primary can answer."""
        names = self.specialists()
        return bool(names) and all(self.is_ready_for(name) for name in names)

    def is_ready_for(self, specialist: str) -> bool:
        """Say whether a specialist's primary can answer now."""
        routes = self._plan.routes
        if self.draining or routes is None or specialist not in routes.by_name:
            return False
        return self._pool.is_ready(routes.by_name[specialist].split.primary)


def _overridden(route: Route, wanted: str, unit: str) -> Assignment:
    assignment = override(route.split, wanted, unit)
    if assignment is None:
        raise OverrideRefused(
            f"override is {wanted[:80]!r}, expected primary, candidate or a bundle that plan {route.generation} names "
            f"for {route.task.name!r}"
        )
    return assignment


def _answer(call: Underway, result: Result, now: float) -> Decision:
    task, assignment = call.route.task, call.assignment
    queue_us = engine_us = 0
    if call.is_cached:
        call.statistics.cache_hits += 1
    else:
        queue_us, engine_us = result.queue_us, result.engine_us
        call.statistics.executed(queue_us, engine_us, max(result.batch_size, 1))
    return Decision(
        call.decision_id,
        assignment.arm,
        assignment.bundle,
        call.route.generation,
        assignment.bucket,
        task.decisions[result.decision],
        result.score,
        task.labels[result.label],
        task.labels,
        result.probabilities,
        0,
        queue_us,
        engine_us,
        int((now - call.arrived) * 1e6),
        bool(result.truncated),
        call.is_cached,
        result.reasons,
    )


def _fallback(call: Underway, reason: int, now: float) -> Decision:
    task, assignment = call.route.task, call.assignment
    return Decision(
        call.decision_id,
        assignment.arm,
        assignment.bundle,
        call.route.generation,
        assignment.bucket,
        task.fallback_decision,
        task.fallback_score,
        labels=task.labels,
        fallback=reason,
        total_us=int((now - call.arrived) * 1e6),
    )
