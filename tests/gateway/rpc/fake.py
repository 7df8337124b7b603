"""A gateway that answers at once, or when a test lets it, and keeps what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from gateway.errors import PromptRejected, UnknownSpecialist
from gateway.serving.statistics import SpecialistStatistics, Statistics
from protos import decide_pb2
from protos.contract.task import InputInvalid, TaskSpec, check_input
from tests.tasks import TASK

BUNDLE = "sha256:" + "b" * 64


@dataclass
class FakeGateway:
    """Says ``unsafe`` to texts that hold the word, ``safe`` to all others. Held decisions wait for their event."""

    served: TaskSpec = TASK
    is_up: bool = True
    fallback: bool = False
    probabilities: tuple[float, ...] = ()
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    failing: dict[str, BaseException] = field(default_factory=dict)
    asked: list[decide_pb2.DecideRequest] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    counted: Statistics = field(default_factory=Statistics)
    draining: bool = False

    async def decide(self, request: decide_pb2.DecideRequest, deadline: float | None) -> decide_pb2.DecideResponse:
        try:
            check_input(self.served, request.input)
        except InputInvalid as error:
            raise PromptRejected(str(error)) from error
        self.asked.append(request)
        self.deadlines.append(deadline)
        name = request.decision_id
        if name in self.held:
            try:
                await self.held[name].wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        if name in self.failing:
            raise self.failing[name]
        return self._answer(request)

    def _answer(self, request: decide_pb2.DecideRequest) -> decide_pb2.DecideResponse:
        answer = decide_pb2.DecideResponse(
            decision_id=request.decision_id,
            arm=decide_pb2.ARM_CANARY,
            bundle_digest=BUNDLE,
            plan_generation=7,
            bucket=42,
        )
        if self.fallback:
            answer.decision = self.served.fallback_decision
            answer.score = self.served.fallback_score
            answer.fallback.used = True
            answer.fallback.reason = decide_pb2.FALLBACK_REASON_NO_TIME
            return answer
        is_unsafe = "unsafe" in request.input.text
        told = self.probabilities or ((0.25, 0.75) if is_unsafe else (0.75, 0.25))
        for label, probability in zip(self.served.labels, told, strict=True):
            answer.probabilities.add(label=label, probability=probability)
        answer.label, answer.decision = ("unsafe", "block") if is_unsafe else ("safe", "allow")
        answer.score = told[1]
        return answer

    async def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        yield decide_pb2.GenerateChunk(last=True)

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        return True

    def task(self, specialist: str) -> TaskSpec:
        if specialist != self.served.name:
            raise UnknownSpecialist(specialist)
        return self.served

    def specialists(self) -> tuple[str, ...]:
        return (self.served.name,)

    def statistics(self, specialist: str) -> SpecialistStatistics:
        return self.counted.of(self.task(specialist).name)

    def is_ready(self) -> bool:
        return self.is_up

    def is_ready_for(self, specialist: str) -> bool:
        return self.is_up
