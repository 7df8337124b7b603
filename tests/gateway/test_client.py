"""The client against a gateway that fails as a test wants."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.client import CallRefused, Client, Default, RetryBudget, Source
from protos import decide_pb2, decide_pb2_grpc

NO_BID = Default("no-bid")
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
PATIENCE_S = 20.0


class Gateway(decide_pb2_grpc.DecisionServiceServicer):
    def __init__(self, *failures: tuple[grpc.StatusCode, str | None]) -> None:
        self.failures = list(failures)
        self.asked: list[decide_pb2.DecideRequest] = []
        self.at: list[float] = []

    async def Decide(self, request: Any, context: Any) -> decide_pb2.DecideResponse:  # noqa: N802
        self.asked.append(request)
        self.at.append(time.monotonic())
        if self.failures:
            code, pushback = self.failures.pop(0)
            trailing = () if pushback is None else (("grpc-retry-pushback-ms", pushback),)
            await context.abort(code, "as told", trailing)
        return decide_pb2.DecideResponse(decision="bid", score=0.5, decision_id=request.decision_id)


def run(gateway: Gateway, story: Callable[[Client], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        server = grpc.aio.server()
        decide_pb2_grpc.add_DecisionServiceServicer_to_server(gateway, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with Client(f"127.0.0.1:{port}", **settings) as client:
            await story(client)
        await server.stop(None)

    asyncio.run(whole())


def test_what_was_not_begun_is_retried_under_the_same_decision_id() -> None:
    gateway = Gateway((UNAVAILABLE, None), (EXHAUSTED, "1"))

    async def story(client: Client) -> None:
        found = await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID, routing_key="k")
        assert (found.decision, found.source, found.attempts) == ("bid", Source.ENGINE, 3)
        assert {(r.decision_id, r.routing_key) for r in gateway.asked} == {(found.decision_id, "k")}
        budgets = [r.budget_us for r in gateway.asked]
        assert budgets == sorted(budgets, reverse=True)

    run(gateway, story)


@pytest.mark.parametrize(
    "failure",
    [
        (EXHAUSTED, None),
        (EXHAUSTED, "-1"),
        (UNAVAILABLE, "soon"),
        (grpc.StatusCode.INTERNAL, None),
        (grpc.StatusCode.DEADLINE_EXCEEDED, None),
        (grpc.StatusCode.ABORTED, None),
        (UNAVAILABLE, "60000"),
    ],
    ids=["exhausted", "stay away", "unreadable", "internal", "late there", "broke in the middle", "too late"],
)
def test_what_may_have_been_done_or_should_not_be_asked_again_ends_in_the_default(
    failure: tuple[grpc.StatusCode, str | None],
) -> None:
    gateway = Gateway(failure)

    async def story(client: Client) -> None:
        found = await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID)
        assert (found.decision, found.source, found.attempts) == ("no-bid", Source.DEFAULT, 1)
        assert failure[0].name in found.problem

    run(gateway, story)


def test_the_gateway_says_when_to_come_again() -> None:
    gateway = Gateway((EXHAUSTED, "80"))

    async def story(client: Client) -> None:
        found = await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID)
        assert (found.source, found.attempts) == (Source.ENGINE, 2)
        assert gateway.at[1] - gateway.at[0] >= 0.07  # the first was refused a moment after it was noted

    run(gateway, story)


def test_a_gateway_that_keeps_failing_is_not_asked_twice_a_call() -> None:
    gateway = Gateway(*[(UNAVAILABLE, None)] * 30)

    async def story(client: Client) -> None:
        attempts = []
        while gateway.failures:
            found = await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID)
            attempts.append(found.attempts)
        assert attempts[0] == 3
        assert set(attempts[5:]) == {1}
        assert (await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID)).source is Source.ENGINE

    run(gateway, story)


def test_answers_bring_retries_back() -> None:
    budget = RetryBudget()
    while budget.failed():
        pass
    for _ in range(200):
        budget.answered()
    assert [budget.failed() for _ in range(5)] == [True, True, True, True, False]


def test_attempts_are_bounded() -> None:
    gateway = Gateway(*[(UNAVAILABLE, None)] * 9)

    async def story(client: Client) -> None:
        found = await client.decide("bids", "x", budget_s=PATIENCE_S, default=NO_BID)
        assert (found.source, found.attempts, len(gateway.asked)) == (Source.DEFAULT, 2, 2)

    run(gateway, story, max_attempts=2)


def test_a_wrong_request_is_told_and_not_repeated() -> None:
    gateway = Gateway((grpc.StatusCode.INVALID_ARGUMENT, None))

    async def story(client: Client) -> None:
        with pytest.raises(CallRefused, match="INVALID_ARGUMENT: as told"):
            await client.decide("bids", "", budget_s=PATIENCE_S, default=NO_BID)
        assert len(gateway.asked) == 1

    run(gateway, story)


def test_a_gateway_that_is_away_costs_the_default_and_no_more_than_the_budget() -> None:
    async def whole() -> None:
        async with Client("127.0.0.1:1") as client:
            found = await client.decide("bids", "x", budget_s=0.2, default=NO_BID)
            assert (found.decision, found.source) == ("no-bid", Source.DEFAULT)
            nothing = await client.decide("bids", "x", budget_s=0.0, default=NO_BID)
            assert (nothing.source, nothing.attempts) == (Source.DEFAULT, 0)
            assert not await client.report("bids", "d", "won", source="test")

    asyncio.run(whole())
