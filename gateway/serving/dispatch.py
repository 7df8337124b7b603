"""The request path: assign, admit, mirror, decide, record.

Nothing here waits for a disk, the control plane or a shadow. The plan is read once.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

from gateway.domain.admission import FinishTime, can_finish
from gateway.domain.assignment import Arm, Assignment, assign, override
from gateway.domain.capabilities import Capabilities, Constraint
from gateway.engines.pool import Pool
from gateway.errors import (
    DeadlinePassed,
    DeadlineTooShort,
    Draining,
    EngineFailed,
    EngineStreamBroken,
    EngineUnavailable,
    GatewayError,
    GenerationUnsupported,
    NoPlanYet,
    Overloaded,
    OverrideRefused,
    PromptRejected,
    UnknownSpecialist,
)
from gateway.metrics import Metrics
from gateway.serving.cache import TaskCache
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import REASONS, ArmCount, Counters
from gateway.serving.current_plan import CurrentPlan, Route
from gateway.serving.deadlines import Deadlines
from gateway.serving.gate import Full, Gate
from gateway.serving.hedge import Hedger
from gateway.serving.lanes import Lane
from gateway.serving.ports import GenerationFailed, WorkerAway
from gateway.serving.sampling import Sampler
from gateway.serving.shadow import Pair, ShadowLane
from gateway.serving.statistics import SpecialistStatistics, Statistics
from protos import capture_pb2, decide_pb2, engine_pb2
from protos.contract.digest import input_digest
from protos.contract.draws import pseudonym
from protos.contract.task import InputInvalid, TaskSpec, check_input

PROBABILITY_TOLERANCE = 1e-3
DEFAULT_NEW_TOKENS = 64
MAX_ID_BYTES = 256
RETRY_AFTER_MS = (50, 500)


class _NoAnswer(Exception):
    """The engine gave no usable answer; the caller gets the fallback, or ``error`` where the route asks."""

    def __init__(self, reason: int, error: GatewayError) -> None:
        super().__init__(str(error))
        self.reason = reason
        self.error = error


@dataclass(slots=True)
class _CallState:
    """One request on its way. Times are ``time.monotonic`` seconds."""

    request: decide_pb2.DecideRequest
    route: Route
    assignment: Assignment
    lane: Lane
    times: FinishTime
    decision_id: str
    unit: str
    arrived: float
    until: float
    respond_by: float  # when the fallback must be on its way: all but the reserve is the engine's
    count: ArmCount
    pair: Pair | None = None
    is_cached: bool = False

    @property
    def budget_us(self) -> int:
        """What the caller could spend in all."""
        return int((self.until - self.arrived) * 1e6)

    @property
    def engine_budget_us(self) -> int:
        """What of it an engine could spend: all but the reserve."""
        return int((self.respond_by - self.arrived) * 1e6)


class Dispatcher:
    """Answers decisions from the plan in force."""

    def __init__(
        self,
        plan: CurrentPlan,
        pool: Pool,
        shadow: ShadowLane,
        capture: CaptureLane,
        sampler: Sampler,
        counters: Counters,
        metrics: Metrics,
        *,
        max_in_flight: int,
        hedger: Hedger | None = None,
    ) -> None:
        self._plan = plan
        self._hedger = hedger
        self._pool = pool
        self._shadow = shadow
        self._capture = capture
        self._sampler = sampler
        self._counters = counters
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._statistics = Statistics()
        self._deadlines = Deadlines()
        self._run = secrets.token_hex(8)  # of this process; numbers then make ids that nobody else gives
        self._numbers = itertools.count(1)
        self.in_flight = 0
        self.draining = False

    async def decide(
        self, request: decide_pb2.DecideRequest, deadline: float | None, wanted: str = ""
    ) -> decide_pb2.DecideResponse:
        """Answer one request.

        Args:
            deadline: Monotonic seconds from the transport; None when the caller set none.
            wanted: The bundle that an authorised tester named; empty lets the draw decide.
        Raises:
            GatewayError: What the caller did wrong, or why there is no answer where the route
                asks for errors instead of fallbacks.
        """
        call = self._begin(request, deadline, wanted)
        if call.assignment.arm is Arm.HOLDBACK:
            return self._hold_back(call)
        task = call.route.task
        answer = None
        self.in_flight += 1
        try:
            cache = None if wanted else call.route.cache
            result = await (self._admit(call) if cache is None else self._recall(cache, call))
        except _NoAnswer as failure:
            if task.on_refusal == "error":
                self._fail(call)
                raise failure.error from None
            answer = self._fallback(call, failure.reason)
        else:
            answer = self._answer(call, result)
        finally:
            self.in_flight -= 1
            if answer is None:  # the caller left, or got an error
                taken_us = int((time.monotonic() - call.arrived) * 1e6)
                self._statistics.of(task.name).ended(taken_us, is_answered=False)
                if call.pair is not None:
                    call.pair.primary_left()  # half a pair compares nothing
        self._record(call, answer)
        if call.pair is not None:
            call.pair.primary_answered(answer)
        return answer

    def _begin(self, request: decide_pb2.DecideRequest, deadline: float | None, wanted: str) -> _CallState:
        arrived = time.monotonic()
        route = self.route(request.specialist)
        task = route.task
        given, routing_key, decision_id = request.input, request.routing_key, request.decision_id  # each look costs
        try:
            check_input(task, given)
        except InputInvalid as error:
            raise PromptRejected(str(error)) from error
        if len(routing_key) > MAX_ID_BYTES or len(decision_id) > MAX_ID_BYTES:
            name, size = max(
                ("routing_key", len(routing_key)), ("decision_id", len(decision_id)), key=lambda pair: pair[1]
            )
            raise PromptRejected(f"{name} has {size} characters, expected at most {MAX_ID_BYTES}")
        until = arrived + min(request.budget_us or task.deadline_us, task.deadline_us) / 1e6
        if deadline is not None:
            until = min(until, deadline)
        if until <= arrived:
            raise DeadlinePassed(0)
        decision_id = decision_id or f"{self._run}{next(self._numbers):016x}"
        unit = routing_key or decision_id
        if wanted:
            assignment, count = _overridden(route, wanted, unit), ArmCount()
        else:
            assignment = assign(route.split, unit)
            count = self._counters.of(task.name, route.split.salt, assignment.arm, assignment.bundle)
        lane = route.lanes[assignment.bundle]
        times = lane.times.of(given.ByteSize())
        respond_by = until - task.reserve_us / 1e6
        return _CallState(request, route, assignment, lane, times, decision_id, unit, arrived, until, respond_by, count)

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

    async def _recall(self, cache: TaskCache, call: _CallState) -> engine_pb2.Result:
        """Give an answer again, or ask for it."""

        async def ask() -> engine_pb2.Result:
            return await self._admit(call)

        try:
            result, call.is_cached = await cache.obtain(
                call.assignment.bundle, call.request.input, call.respond_by, ask
            )
        except TimeoutError:
            raise _late(call) from None
        if call.is_cached and call.assignment.shadow is not None and not call.request.test:
            self._shadow.not_asked(call.request.specialist, call.route.split.salt, call.assignment.shadow)
        return result

    def _admit(self, call: _CallState) -> Awaitable[engine_pb2.Result]:
        """Refuse what cannot be answered; returns the answer to come of what can."""
        if self.in_flight > self._max_in_flight:
            raise _overloaded(call)
        times, budget_us = call.times, call.engine_budget_us
        if not can_finish(budget_us, times.admit_us):
            error = DeadlineTooShort(budget_us, int(times.admit_us))
            times.refused(budget_us)
            raise _NoAnswer(decide_pb2.FALLBACK_REASON_NO_TIME, error)
        return self._ask(call) if call.lane.gate is None else self._enter(call.lane.gate, call)

    async def _enter(self, gate: Gate, call: _CallState) -> engine_pb2.Result:
        """Ask the engine once its gate lets the call in."""
        try:
            # Later than that, the engine could not finish.
            await gate.enter(call.respond_by - call.times.admit_us / 1e6)
        except Full:
            raise _overloaded(call) from None
        entered = time.monotonic()
        taken_s = None
        try:
            result = await self._ask(call)
            taken_s = time.monotonic() - entered
            return result
        except _NoAnswer as failure:
            if failure.reason == decide_pb2.FALLBACK_REASON_DEADLINE:
                taken_s = time.monotonic() - entered
            raise
        finally:
            gate.leave(taken_s)

    def _mirror(self, call: _CallState) -> Pair | None:
        candidate = call.assignment.shadow
        if candidate is None or call.request.test:
            return None
        split = call.route.split
        return self._shadow.offer(
            call.request, split.primary, candidate, split.salt, call.route.task, call.engine_budget_us
        )

    async def _ask(self, call: _CallState) -> engine_pb2.Result:
        bundle = call.assignment.bundle
        call.pair = self._mirror(call)
        try:
            link = self._pool.pick(bundle)
            asked = time.monotonic()
            remaining_us = int((call.respond_by - asked) * 1e6)
            number, future = link.submit(bundle, call.request.input, remaining_us, call.lane.priority)
        except WorkerAway:
            raise _unavailable(call) from None
        self._deadlines.add(future, call.respond_by)
        hedge = None
        if self._hedger is not None and call.times.hedge_us:
            hedge = self._hedger.watch(
                link, number, future, bundle, call.request.input, call.lane.priority,
                call.times.hedge_us / 1e6, call.respond_by - asked,
            )  # fmt: skip
        if self._pool.breakers is not None and self._pool.breakers.ejected:
            self._probe(call, remaining_us)
        try:
            result = await future
        except TimeoutError:
            link.cancel(number)
            now = time.monotonic()
            taken_us = (now - asked) * 1e6
            # An engine that was given too little time did nothing wrong.
            is_to_blame = taken_us >= call.times.admit_us
            self._pool.ended(link, bundle, now - asked, now, is_good=False if is_to_blame else None)
            call.times.gave_up(taken_us)
            raise _late(call) from None
        except asyncio.CancelledError:
            link.cancel(number)
            raise
        except WorkerAway:
            raise _unavailable(call) from None
        finally:
            if hedge is not None:
                hedge.end()
        now = time.monotonic()
        try:
            _check_result(result, call)
        except _NoAnswer as failure:
            # As slow as can be, or a worker that fails at once would be given every call.
            is_broken = failure.reason == decide_pb2.FALLBACK_REASON_ENGINE_ERROR
            self._pool.ended(link, bundle, call.respond_by - asked, now, is_good=False if is_broken else None)
            raise
        if hedge is not None and hedge.has_won:  # the first worker never answered
            self._pool.ended(link, bundle, call.respond_by - asked, now, is_good=None)
        else:
            self._pool.ended(link, bundle, now - asked, now, is_good=True)
        call.times.observe((now - asked) * 1e6)
        return result

    def _probe(self, call: _CallState, remaining_us: int) -> None:
        """Have a worker that was left alone prove itself on a copy of this call."""
        assert self._pool.breakers is not None
        bundle, task = call.assignment.bundle, call.route.task

        def is_right(result: engine_pb2.Result) -> bool:
            is_ok = result.status == engine_pb2.RESULT_STATUS_OK
            return is_ok and _output_problem(result, bundle, task) is None

        self._pool.breakers.probe(bundle, call.request.input, remaining_us, is_right)

    def _answer(self, call: _CallState, result: engine_pb2.Result) -> decide_pb2.DecideResponse:
        task = call.route.task
        answer = self._blank(call)
        answer.label = task.labels[result.label]
        answer.score = result.score
        answer.decision = task.decisions[result.decision]
        answer.truncated = result.truncated
        add = answer.probabilities.add
        for label, probability in zip(task.labels, result.probabilities, strict=True):
            add(label=label, probability=probability)
        if result.reasons:
            answer.reasons.extend(result.reasons)
        if call.is_cached:
            answer.cached = True
            self._statistics.of(task.name).cache_hits += 1
            return answer
        timing, queue_us, engine_us = answer.timing, result.queue_us, result.engine_us
        timing.queue_us = queue_us
        timing.engine_us = engine_us
        self._statistics.of(task.name).executed(queue_us, engine_us, max(result.batch_size, 1))
        return answer

    def _fail(self, call: _CallState) -> None:
        """Count a call that ends in an error by its route's choice; its time counts as an answer's does."""
        task, arm = call.route.task, call.assignment.arm
        taken_us = int((time.monotonic() - call.arrived) * 1e6)
        self._metrics.failed(task.name, arm, taken_us)
        if not call.request.test:
            self._counters.failed(call.count, taken_us)

    def _hold_back(self, call: _CallState) -> decide_pb2.DecideResponse:
        """Answer without any model, whatever state the engines are in."""
        answer = self._fallback(call, decide_pb2.FALLBACK_REASON_HOLDBACK)
        answer.decision = call.route.task.holdback_decision or answer.decision
        self._record(call, answer)
        return answer

    def _fallback(self, call: _CallState, reason: int) -> decide_pb2.DecideResponse:
        task = call.route.task
        answer = self._blank(call)
        answer.decision = task.fallback_decision
        answer.score = task.fallback_score
        answer.fallback.used = True
        answer.fallback.reason = reason  # type: ignore[assignment]
        self._metrics.fell_back(task.name, call.assignment.arm, REASONS[reason])
        return answer

    @staticmethod
    def _blank(call: _CallState) -> decide_pb2.DecideResponse:
        return decide_pb2.DecideResponse(
            decision_id=call.decision_id,
            arm=int(call.assignment.arm),  # type: ignore[arg-type]
            bundle_digest=call.assignment.bundle,
            plan_generation=call.route.generation,
            bucket=call.assignment.bucket,
        )

    def _record(self, call: _CallState, answer: decide_pb2.DecideResponse) -> None:
        now = time.monotonic()
        taken_us = int((now - call.arrived) * 1e6)
        answer.timing.total_us = taken_us
        in_time = now <= call.until and not answer.fallback.used
        task = call.route.task
        self._metrics.answered(task.name, call.assignment.arm, taken_us, in_time)
        self._statistics.of(task.name).ended(taken_us, is_answered=True)
        if call.request.test:
            return
        self._counters.answered(
            call.count, taken_us, in_time, REASONS[answer.fallback.reason] if answer.fallback.used else ""
        )
        if call.route.split.capture_bp and call.assignment.arm is not Arm.OVERRIDE:
            self._draw(call, answer, in_time)

    def _draw(self, call: _CallState, answer: decide_pb2.DecideResponse, in_time: bool) -> None:
        """Record the request if it is drawn: at once, or when its shadow has said whether it agrees."""
        reason, extra_bp = self._sampler.stands_out(answer, call.request.input.ByteSize())
        at_ms = time.time_ns() // 1_000_000

        def sample(disagreed: bool) -> None:
            self._sample(call, answer, in_time, at_ms, reason, extra_bp, disagreed)

        if call.pair is not None and self._sampler.waits_for_shadow:
            call.pair.settled = sample
        elif call.assignment.is_captured or extra_bp:
            sample(False)

    def _sample(
        self,
        call: _CallState,
        answer: decide_pb2.DecideResponse,
        in_time: bool,
        at_ms: int,
        reason: str,
        extra_bp: int,
        disagreed: bool,
    ) -> None:
        split = call.route.split
        task = call.route.task
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
            input=_declared(task, call.request.input),
            input_digest=input_digest(call.request.input),
            answer=answer,
            at_unix_ms=at_ms,
            inclusion_bp=split.capture_bp,
            salt=split.salt,
            in_time=in_time,
            drawn_for=drawn_for,
            inclusion=inclusion,
        )
        self._capture.offer(capture_pb2.CaptureRecord(sample=sample))

    async def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None, wanted: str = ""
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        """Stream text from the bundle that the request is assigned to; raises GatewayError."""
        as_decision = decide_pb2.DecideRequest(
            specialist=request.specialist,
            input=request.input,
            routing_key=request.routing_key,
            decision_id=request.decision_id,
            budget_us=request.budget_us,
        )
        call = self._begin(as_decision, deadline, wanted)
        name = call.route.task.name
        # There is no text without a model, so holdback is of decisions only.
        arm = int(Arm.PRIMARY if call.assignment.arm is Arm.HOLDBACK else call.assignment.arm)
        tokens = 0
        try:
            link = self._pool.pick(call.assignment.bundle)
            if call.assignment.bundle not in link.generators:
                raise GenerationUnsupported(name)
            constraint = _constraint(request, link.capabilities(call.assignment.bundle))
            limit = request.max_tokens or DEFAULT_NEW_TOKENS
            chunks = link.generate(call.assignment.bundle, request.input, call.budget_us, limit, constraint)
            async with asyncio.timeout(call.until - time.monotonic()):
                async for chunk in chunks:
                    tokens = chunk.tokens
                    yield decide_pb2.GenerateChunk(
                        decision_id=call.decision_id,
                        text=chunk.text,
                        last=chunk.last,
                        arm=arm,  # type: ignore[arg-type]
                        bundle_digest=call.assignment.bundle,
                        plan_generation=call.route.generation,
                        tokens=tokens,
                    )
        except WorkerAway:
            raise EngineUnavailable(name) from None
        except TimeoutError:
            raise DeadlinePassed(call.budget_us) from None
        except GenerationFailed as error:
            raise (EngineStreamBroken(name, tokens) if tokens else EngineFailed(name, str(error))) from error

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        """Record what really happened; false when the capture lane is full."""
        task = self.route(request.specialist).task
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


def _declared(task: TaskSpec, given: decide_pb2.Input) -> decide_pb2.Input:
    """Copy only the fields whose capture the task declares."""
    allowed = {field.name for field in task.fields if field.capture}
    kept = decide_pb2.Input()
    if given.text and task.fields[0].name in allowed:
        kept.text = given.text
    for name, value in given.fields.items():
        if name in allowed:
            kept.fields[name].CopyFrom(value)
    return kept


def _late(call: _CallState) -> _NoAnswer:
    return _NoAnswer(decide_pb2.FALLBACK_REASON_DEADLINE, DeadlinePassed(call.budget_us))


def _overloaded(call: _CallState) -> _NoAnswer:
    """There is no room: an auction is over before a second attempt, all others come again spread out."""
    task = call.route.task
    retry_after_ms = None if task.service_class == "hard" else random.randint(*RETRY_AFTER_MS)  # noqa: S311
    return _NoAnswer(decide_pb2.FALLBACK_REASON_OVERLOADED, Overloaded(task.name, retry_after_ms))


def _constraint(request: decide_pb2.GenerateRequest, found: Capabilities | None) -> Constraint | None:
    """Read what the text must be, and refuse what the engine would not keep: text that ignores it is garbage."""
    kind = request.constraint.WhichOneof("kind")
    if kind is None:
        return None
    kept = found.constraints if found is not None else ()
    if kind not in kept:
        raise PromptRejected(
            f"constraint is {kind}, expected {' or '.join(kept) or 'none'} of this specialist's engine"
        )
    if kind == "choice":
        texts = tuple(request.constraint.choice.texts)
        if not texts or not all(texts):
            raise PromptRejected("constraint.choice.texts is empty or has an empty text, expected at least one")
        return Constraint("choice", choices=texts)
    pattern = getattr(request.constraint, kind)
    if not pattern:
        raise PromptRejected(f"constraint.{kind} is empty, expected a pattern")
    return Constraint(kind, pattern)


def _unavailable(call: _CallState) -> _NoAnswer:
    return _NoAnswer(decide_pb2.FALLBACK_REASON_ENGINE_UNAVAILABLE, EngineUnavailable(call.route.task.name))


def _check_result(result: engine_pb2.Result, call: _CallState) -> None:
    """Refuse whatever breaks the output contract: garbage is never forwarded as an answer."""
    status = result.status
    task = call.route.task
    if status == engine_pb2.RESULT_STATUS_BAD_INPUT:
        raise PromptRejected(result.message)
    if status == engine_pb2.RESULT_STATUS_EXPIRED:
        raise _late(call)
    if status == engine_pb2.RESULT_STATUS_OVERLOADED:
        raise _overloaded(call)
    if status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE:
        raise _unavailable(call)
    is_ok = status == engine_pb2.RESULT_STATUS_OK
    problem = _output_problem(result, call.assignment.bundle, task) if is_ok else result.message or "no reason given"
    if problem is not None:
        raise _NoAnswer(decide_pb2.FALLBACK_REASON_ENGINE_ERROR, EngineFailed(task.name, problem))


def _output_problem(result: engine_pb2.Result, bundle: str, task: TaskSpec) -> str | None:
    probabilities = list(result.probabilities)  # once: each look into a message costs
    total = sum(probabilities)
    if result.bundle_digest != bundle:
        return f"the answer is from {result.bundle_digest!r}, expected {bundle}"
    if len(probabilities) != len(task.labels) or not abs(total - 1) <= PROBABILITY_TOLERANCE:
        return f"{len(probabilities)} probabilities with sum {total:.4f}, expected {len(task.labels)} with sum 1"
    if not (min(probabilities) >= 0 and max(probabilities) <= 1 and 0 <= result.score <= 1):
        return "a probability or the score is outside 0..1"
    if result.label >= len(task.labels) or result.decision >= len(task.decisions):
        return f"label {result.label} or decision {result.decision} is out of range"
    return None
