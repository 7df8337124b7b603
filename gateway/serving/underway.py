"""One call on its way, and the reasons why an engine may have no answer for it."""

import random
from dataclasses import dataclass

from gateway.domain.admission import FinishTime
from gateway.domain.assignment import Assignment
from gateway.domain.decision import Question
from gateway.errors import (
    DeadlinePassed,
    EngineFailed,
    EngineUnavailable,
    GatewayError,
    Overloaded,
    PromptRejected,
)
from gateway.serving.counters import ArmCount
from gateway.serving.current_plan import Route
from gateway.serving.lanes import Lane
from gateway.serving.ports import Result
from gateway.serving.shadow import Pair
from gateway.serving.statistics import SpecialistStatistics
from protos import decide_pb2, engine_pb2
from protos.contract.task import TaskSpec

PROBABILITY_TOLERANCE = 1e-3
RETRY_AFTER_MS = (50, 500)
_OK = engine_pb2.RESULT_STATUS_OK


class NoAnswer(Exception):
    """The engine gave no usable answer; the caller gets the fallback, or ``error`` where the route asks."""

    def __init__(self, reason: int, error: GatewayError) -> None:
        super().__init__(str(error))
        self.reason = reason
        self.error = error


@dataclass(slots=True)
class Underway:
    """One question on its way. Times are ``time.monotonic`` seconds."""

    question: Question
    route: Route
    assignment: Assignment
    lane: Lane
    times: FinishTime
    decision_id: str
    unit: str
    arrived: float
    until: float
    respond_by: float  # when the fallback must be on its way
    engine_budget_us: int  # what is left until then
    count: ArmCount
    statistics: SpecialistStatistics
    pair: Pair | None = None
    is_cached: bool = False

    @property
    def budget_us(self) -> int:
        """What the caller could spend in all."""
        return int((self.until - self.arrived) * 1e6)


def late(call: Underway) -> NoAnswer:
    """The engine has not answered in time."""
    return NoAnswer(decide_pb2.FALLBACK_REASON_DEADLINE, DeadlinePassed(call.budget_us))


def overloaded(call: Underway) -> NoAnswer:
    """There is no room: an auction is over before a second attempt, all others come again spread out."""
    task = call.route.task
    retry_after_ms = None if task.service_class == "hard" else random.randint(*RETRY_AFTER_MS)  # noqa: S311
    return NoAnswer(decide_pb2.FALLBACK_REASON_OVERLOADED, Overloaded(task.name, retry_after_ms))


def unavailable(call: Underway) -> NoAnswer:
    """No engine is there for the bundle."""
    return NoAnswer(decide_pb2.FALLBACK_REASON_ENGINE_UNAVAILABLE, EngineUnavailable(call.route.task.name))


def check_result(result: Result, call: Underway) -> None:
    """Refuse whatever breaks the output contract: garbage is never forwarded as an answer.

    Raises:
        NoAnswer: There is no answer, or no right one.
        PromptRejected: The engine found something wrong with the input.
    """
    status = result.status
    if status == _OK:
        problem = output_problem(result, call.assignment.bundle, call.route.task)
        if problem is None:
            return
    elif status == engine_pb2.RESULT_STATUS_BAD_INPUT:
        raise PromptRejected(result.message)
    elif status == engine_pb2.RESULT_STATUS_EXPIRED:
        raise late(call)
    elif status == engine_pb2.RESULT_STATUS_OVERLOADED:
        raise overloaded(call)
    elif status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE:
        raise unavailable(call)
    else:
        problem = result.message or "no reason given"
    raise NoAnswer(decide_pb2.FALLBACK_REASON_ENGINE_ERROR, EngineFailed(call.route.task.name, problem))


def output_problem(result: Result, bundle: str, task: TaskSpec) -> str | None:
    """Say what is wrong with an answer; None where it keeps the contract."""
    probabilities, score = result.probabilities, result.score  # once: each look into a message costs
    total = sum(probabilities)
    if result.bundle_digest != bundle:
        return f"the answer is from {result.bundle_digest!r}, expected {bundle}"
    if len(probabilities) != len(task.labels) or not abs(total - 1) <= PROBABILITY_TOLERANCE:
        return f"{len(probabilities)} probabilities with sum {total:.4f}, expected {len(task.labels)} with sum 1"
    if not (min(probabilities) >= 0 and max(probabilities) <= 1 and 0 <= score <= 1):
        return "a probability or the score is outside 0..1"
    if result.label >= len(task.labels) or result.decision >= len(task.decisions):
        return f"label {result.label} or decision {result.decision} is out of range"
    return None
