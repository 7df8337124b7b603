"""A gateway that answers at once, or when a test lets it, and keeps what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from gateway.domain.decision import Decision, Question
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
    asked: list[Question] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    counted: Statistics = field(default_factory=Statistics)
    draining: bool = False

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        try:
            check_input(self.served, question.input, len(question.input.raw))
        except InputInvalid as error:
            raise PromptRejected(str(error)) from error
        self.asked.append(question)
        self.deadlines.append(deadline)
        name = question.decision_id
        if name in self.held:
            try:
                await self.held[name].wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        if name in self.failing:
            raise self.failing[name]
        return self._answer(question)

    def _answer(self, question: Question) -> Decision:
        said = Decision(question.decision_id, decide_pb2.ARM_CANARY, BUNDLE, 7, 42, "", 0.0, labels=self.served.labels)
        if self.fallback:
            decision, score = self.served.fallback_decision, self.served.fallback_score
            return said._replace(decision=decision, score=score, fallback=decide_pb2.FALLBACK_REASON_NO_TIME)
        is_unsafe = "unsafe" in question.input.text
        told = self.probabilities or ((0.25, 0.75) if is_unsafe else (0.75, 0.25))
        label, decision = ("unsafe", "block") if is_unsafe else ("safe", "allow")
        return said._replace(label=label, decision=decision, score=told[1], probabilities=told)

    async def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None, arrived: float | None
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
