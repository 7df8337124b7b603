"""Places are taken and given back, one for one, whoever waits, leaves or is sent away."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from gateway.domain.limit import FixedLimit
from gateway.serving.gate import Full, Gate
from gateway.serving.lanes import Lanes, LaneSettings
from protos import engine_pb2
from protos.contract.plan import Split
from tests.tasks import TASK

FAR = 1e9


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_without_a_line_the_first_too_many_is_sent_away_at_once() -> None:
    async def story() -> None:
        gate = Gate(FixedLimit(2))
        await gate.enter(FAR)
        await gate.enter(FAR)
        with pytest.raises(Full):
            await gate.enter(FAR)
        gate.leave(0.001)
        await gate.enter(FAR)
        assert gate.limit.in_flight == 2

    asyncio.run(story())


def test_the_newest_goes_first_and_a_full_line_loses_its_oldest() -> None:
    async def story() -> None:
        gate = Gate(FixedLimit(1), max_waiting=2)
        await gate.enter(FAR)
        entered: list[int] = []

        async def come(name: int) -> None:
            await gate.enter(FAR)
            entered.append(name)

        calls = []
        for name in range(3):
            calls.append(asyncio.create_task(come(name)))
            await turn()
        assert isinstance(calls[0].exception(), Full)
        for _ in range(2):
            gate.leave(0.001)
            await turn()
        assert entered == [2, 1]
        assert (gate.waiting, gate.limit.in_flight) == (0, 1)

    asyncio.run(story())


def test_who_waits_longer_than_it_can_is_sent_away() -> None:
    async def story() -> None:
        gate = Gate(FixedLimit(1), max_waiting=2)
        await gate.enter(FAR)
        with pytest.raises(Full):
            await gate.enter(time.monotonic() - 1)
        assert (gate.waiting, gate.limit.in_flight) == (0, 1)

    asyncio.run(story())


def test_every_place_taken_is_given_back_whatever_becomes_of_the_calls() -> None:
    async def story() -> None:
        draw = random.Random(11)
        share = FixedLimit(3)
        gate = Gate(FixedLimit(2), share=share, max_waiting=4)
        most = 0

        async def call(patience: float, work: int) -> None:
            nonlocal most
            await gate.enter(time.monotonic() + patience)
            most = max(most, gate.limit.in_flight)
            try:
                for _ in range(work):
                    await asyncio.sleep(0)
            finally:
                gate.leave(0.001)

        calls = []
        for _ in range(400):
            calls.append(asyncio.create_task(call(draw.choice((0.0, 0.0001, FAR)), draw.randrange(4))))
            if draw.random() < 0.4:
                draw.choice(calls).cancel()
            if draw.random() < 0.7:
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, Full | asyncio.CancelledError | None) for outcome in outcomes)
        assert None in outcomes
        assert (gate.limit.in_flight, share.in_flight, gate.waiting) == (0, 0, 0)
        assert most <= 2

    asyncio.run(story())


def test_all_batch_tasks_together_get_their_share_and_the_lowest_priority() -> None:
    async def story() -> None:
        lanes = Lanes(LaneSettings(batch_share=0.25), max_in_flight=8)
        found = []
        for letter in "ab":
            split = Split(f"task-{letter}", "sha256:" + letter * 64, None, None, 0, 0, 0, 0, "s")
            (lane,) = lanes.of(split, batch).values()
            assert lane.priority == engine_pb2.PRIORITY_BATCH
            assert lane.gate is not None
            found.append(lane.gate)
        first, second = found
        await first.enter(FAR)
        await second.enter(FAR)
        for gate in found:
            with pytest.raises(Full):
                await gate.enter(FAR)
        first.leave(None)
        await second.enter(FAR)

    batch = replace(TASK, service_class="batch")
    asyncio.run(story())


def test_a_hard_task_has_no_gate_unless_its_engine_has_a_limit_of_its_own() -> None:
    split = Split("brand", "sha256:" + "a" * 64, None, None, 0, 0, 0, 0, "s")
    gates = {
        name: next(iter(Lanes(settings, max_in_flight=8).of(split, TASK).values())).gate
        for name, settings in {
            "off": LaneSettings(),
            "fixed": LaneSettings(engine_max_in_flight=4),
            "gradient": LaneSettings(engine_limit="gradient"),
        }.items()
    }
    assert gates["off"] is None
    assert gates["fixed"] is not None
    assert gates["gradient"] is not None


def test_a_lane_outlives_the_plans_that_keep_its_bundle() -> None:
    lanes = Lanes(LaneSettings(engine_limit="gradient"), max_in_flight=8)
    old, new = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    before = lanes.of(Split("brand", old, None, None, 0, 0, 0, 0, "s"), TASK)[old]
    after = lanes.of(Split("brand", old, new, None, 0, 1, 0, 0, "t"), TASK)
    assert after[old] is before
    assert (after[old].priority, after[new].priority) == (engine_pb2.PRIORITY_LIVE, engine_pb2.PRIORITY_CANARY)
    lanes.keep_only({new})
    assert lanes.of(Split("brand", new, old, None, 0, 1, 0, 0, "u"), TASK)[old] is not before


def test_a_call_that_is_cancelled_in_the_turn_in_which_a_place_comes_free_leaves_it_to_the_next() -> None:
    async def story() -> None:
        gate = Gate(FixedLimit(1), max_waiting=2)
        await gate.enter(FAR)
        calls = [asyncio.create_task(gate.enter(FAR)) for _ in range(2)]
        await turn()
        calls[1].cancel()
        gate.leave(0.001)  # before the cancelled one has run
        await turn()
        assert calls[0].done() and calls[1].cancelled()
        assert (gate.waiting, gate.limit.in_flight) == (0, 1)

    asyncio.run(story())


def test_a_full_line_whose_oldest_was_cancelled_in_this_turn_takes_the_newcomer() -> None:
    async def story() -> None:
        gate = Gate(FixedLimit(1), max_waiting=1)
        await gate.enter(FAR)
        gone = asyncio.create_task(gate.enter(FAR))
        await turn()
        gone.cancel()
        came = asyncio.ensure_future(gate.enter(FAR))
        await turn()
        assert gone.cancelled() and gate.waiting == 1
        gate.leave(0.001)
        await turn()
        assert came.done() and (gate.waiting, gate.limit.in_flight) == (0, 1)

    asyncio.run(story())
