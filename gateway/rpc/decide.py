"""The native service, interlock.v1.DecisionService."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.domain.decision import Decision, Question
from gateway.errors import GatewayError, PromptRejected
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import Call, Kind, Method, closing, parse
from gateway.serving.messages import read_question, write_decision
from protos import decide_pb2
from protos.contract.task import InputInvalid, check_input

SERVICE = "interlock.v1.DecisionService"
MAX_BATCH = 256


async def decide_all(gateway: Gateway, questions: Sequence[Question], call: Call, noun: str) -> list[Decision]:
    """Decide questions at the same time, answers in order; the first failure ends them all and names its question.

    Every question is checked before any is started, so that a bad one costs no engine time.
    """
    for i, question in enumerate(questions):
        try:
            check_input(gateway.task(question.specialist), question.input, len(question.input.raw))
        except InputInvalid as error:
            raise PromptRejected(str(error)).at(f"{noun}[{i}]") from error
        except GatewayError as error:
            raise error.at(f"{noun}[{i}]") from error.__cause__

    async def decide(i: int) -> Decision:
        try:
            return await gateway.decide(questions[i], call.deadline, call.arrived)
        except GatewayError as error:
            raise error.at(f"{noun}[{i}]") from error.__cause__

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(decide(i)) for i in range(len(questions))]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in tasks]


class DecisionService:
    """Reads and writes the native messages; the gateway does the work."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def methods(self) -> tuple[Method, ...]:
        """Return this service's rows of the method table."""
        return (
            Method(f"/{SERVICE}/Decide", Kind.UNARY, self.decide),
            Method(f"/{SERVICE}/DecideBatch", Kind.UNARY, self.decide_batch),
            Method(f"/{SERVICE}/Generate", Kind.SERVER_STREAM, self.generate),
            Method(f"/{SERVICE}/ReportOutcome", Kind.UNARY, self.report_outcome),
        )

    async def decide(self, call: Call, payload: bytes) -> bytes:
        """Decide one input."""
        question = read_question(parse(decide_pb2.DecideRequest, payload))
        answer = await self._gateway.decide(question, call.deadline, call.arrived)
        return write_decision(answer).SerializeToString()

    async def decide_batch(self, call: Call, payload: bytes) -> bytes:
        """Decide several inputs at the same time, all or nothing."""
        requests = parse(decide_pb2.DecideBatchRequest, payload).requests
        if len(requests) > MAX_BATCH:
            raise PromptRejected(f"requests has {len(requests)} items, expected at most {MAX_BATCH}")
        answers = await decide_all(self._gateway, [*map(read_question, requests)], call, "requests")
        return decide_pb2.DecideBatchResponse(responses=map(write_decision, answers)).SerializeToString()

    async def generate(self, call: Call, payload: bytes) -> AsyncIterator[bytes]:
        """Stream generated text."""
        request = parse(decide_pb2.GenerateRequest, payload)
        async with closing(self._gateway.generate(request, call.deadline, call.arrived)) as chunks:
            async for chunk in chunks:
                yield chunk.SerializeToString()

    async def report_outcome(self, call: Call, payload: bytes) -> bytes:
        """Record what really happened to an earlier decision."""
        recorded = self._gateway.report_outcome(parse(decide_pb2.ReportOutcomeRequest, payload))
        return decide_pb2.ReportOutcomeResponse(recorded=recorded).SerializeToString()
