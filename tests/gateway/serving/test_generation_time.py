"""Text has as long as a decision: from when the front had the call."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.engines.pool import Pool
from gateway.errors import DeadlinePassed
from gateway.rpc.decide import DecisionService
from gateway.rpc.wire import Call
from gateway.serving.asking import Asking
from gateway.serving.counters import Counters
from gateway.serving.current_plan import Route, Routes
from gateway.serving.dispatch import Dispatcher
from gateway.serving.lanes import Lanes, LaneSettings
from protos import decide_pb2, engine_pb2
from protos.contract.plan import Split, TrafficPlan
from tests.tasks import TASK

BUNDLE = "sha256:" + "a" * 64
DEADLINE_S = TASK.deadline_us / 1e6


class Writer:
    """An engine that writes one word and keeps how long it was given."""

    def __init__(self) -> None:
        self.ready = self.generators = {BUNDLE}
        self.given_us: list[int] = []

    def capabilities(self, bundle: str) -> None:
        return None

    async def generate(self, bundle: str, given: Any, remaining_us: int, *_: Any) -> AsyncIterator[engine_pb2.Chunk]:
        self.given_us.append(remaining_us)
        yield engine_pb2.Chunk(text="word", tokens=1, last=True)


class Plan:
    """A plan with one primary."""

    def __init__(self) -> None:
        split = Split("brand", BUNDLE, None, None, 0, 0, 0, 0, "r-1")
        route = Route(split, TASK, 1, Lanes(LaneSettings(), 16).of(split, TASK), None)
        self.routes = Routes(TrafficPlan("test", 1, 0, (split,), ()), {"brand": route})


def write(arrived: float | None, writer: Writer) -> list[bytes]:
    unused: Any = None
    engines: Any = [writer]

    async def story() -> list[bytes]:
        pool = Pool(engines, unused)
        asking = Asking(pool, unused, max_in_flight=1)
        dispatcher = Dispatcher(Plan(), pool, asking, unused, Counters())  # type: ignore[arg-type]
        request = decide_pb2.GenerateRequest(specialist="brand", input=decide_pb2.Input(text="a page"))
        call = Call("/", arrived=arrived)
        answers = DecisionService(dispatcher).generate(call, request.SerializeToString())
        return [answer async for answer in answers]

    return asyncio.run(story())


def test_what_a_call_waited_for_its_turn_is_not_given_to_the_engine() -> None:
    writer = Writer()
    assert write(time.monotonic() - DEADLINE_S / 2, writer)
    assert 0 < writer.given_us[0] <= TASK.deadline_us / 2


def test_a_call_that_waited_all_its_time_costs_no_engine_any() -> None:
    writer = Writer()
    with pytest.raises(DeadlinePassed):
        write(time.monotonic() - DEADLINE_S, writer)
    assert not writer.given_us
