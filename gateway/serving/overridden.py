"""The request path for testers who name the bundle that answers."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from gateway.domain.decision import Decision, Question
from gateway.serving.statistics import SpecialistStatistics
from protos import decide_pb2
from protos.contract.task import TaskSpec

if TYPE_CHECKING:
    from gateway.serving.dispatch import Dispatcher


class Overridden:
    """A dispatcher that assigns what its caller named. As good for services as the dispatcher itself."""

    def __init__(self, dispatcher: "Dispatcher", wanted: str) -> None:
        self._dispatcher = dispatcher
        self._wanted = wanted
        self.report_outcome: Callable[[decide_pb2.ReportOutcomeRequest], bool] = dispatcher.report_outcome
        self.task: Callable[[str], TaskSpec] = dispatcher.task
        self.specialists: Callable[[], tuple[str, ...]] = dispatcher.specialists
        self.statistics: Callable[[str], SpecialistStatistics] = dispatcher.statistics
        self.is_ready: Callable[[], bool] = dispatcher.is_ready
        self.is_ready_for: Callable[[str], bool] = dispatcher.is_ready_for

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping."""
        return self._dispatcher.draining

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        """Decide one input with the bundle named; raises as the dispatcher does, and OverrideRefused."""
        return await self._dispatcher.decide(question, deadline, arrived, self._wanted)

    def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None, arrived: float | None
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        """Stream text from the bundle named; raises as the dispatcher does, and OverrideRefused."""
        return self._dispatcher.generate(request, deadline, arrived, self._wanted)
