"""What the services need from the request path."""

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.domain.decision import Decision, Question
from gateway.serving.statistics import SpecialistStatistics
from protos import decide_pb2
from protos.contract.task import TaskSpec


class Gateway(Protocol):
    """Answers calls from the plan in force. Every method may raise a GatewayError.

    Times are seconds of ``time.monotonic``: deadlines are None when the caller set none, and ``arrived``, from which
    the specialist's own time counts, where that is now.
    """

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        """Decide one input."""
        ...

    def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None, arrived: float | None
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        """Stream generated text."""
        ...

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        """Record what really happened; False when there was no room."""
        ...

    def task(self, specialist: str) -> TaskSpec:
        """Return a specialist's task; raises UnknownSpecialist or NoPlanYet."""
        ...

    def specialists(self) -> tuple[str, ...]:
        """Name the specialists of the plan in force."""
        ...

    def statistics(self, specialist: str) -> SpecialistStatistics:
        """Return what a specialist did since the process started; raises as ``task`` does."""
        ...

    def is_ready(self) -> bool:
        """Say whether calls can be answered."""
        ...

    def is_ready_for(self, specialist: str) -> bool:
        """Say whether an engine is ready for the specialist."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping."""
        ...
