"""Which copies become pairs: those the candidate answered or failed by itself."""

import asyncio
from typing import Any

import pytest

from gateway.domain.decision import Decision, Question
from gateway.serving.counters import Counters
from gateway.serving.ports import Result, WorkerAway
from gateway.serving.shadow import ShadowLane
from protos import capture_pb2, engine_pb2
from protos.contract.given import Given
from protos.decide_pb2 import Input
from tests.tasks import TASK

NAME, OLD, NEW = TASK.name, "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Engine:
    """An engine link, and the pool that has only it."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Result]] = []

    def pick(self, bundle: str) -> "Engine":
        return self

    def submit(self, *_: Any) -> tuple[int, "asyncio.Future[Result]"]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return len(self.waiting), self.waiting[-1]

    def cancel(self, number: int) -> None:
        self.waiting[number - 1].cancel()


class Capture:
    def __init__(self) -> None:
        self.pairs: list[capture_pb2.ShadowPair] = []
        self.causes: list[str] = []

    def offer(self, record: capture_pb2.CaptureRecord) -> bool:
        self.pairs.append(record.shadow_pair)
        return True

    def drop(self, cause: str) -> None:
        self.causes.append(cause)


@pytest.mark.parametrize(
    "status, is_pair",
    [
        pytest.param(None, False, id="the-worker-went"),
        pytest.param(engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE, False, id="the-bundle-went"),
        pytest.param(engine_pb2.RESULT_STATUS_ENGINE_ERROR, True, id="the-candidate-failed"),
    ],
)
def test_copies_that_ended_with_their_worker_are_dropped_with_the_cause_and_a_failure_is_a_pair(
    status: engine_pb2.ResultStatus | None, is_pair: bool
) -> None:
    async def story() -> None:
        engine, capture = Engine(), Capture()
        lane = ShadowLane(engine, capture, Counters(), max_in_flight=8)  # type: ignore[arg-type]
        question = Question(NAME, Given.of(Input(text="hello")))
        for _ in range(3):
            pair = lane.offer(question, OLD, NEW, "salt", TASK, 100_000)
            assert pair is not None
            pair.primary_answered(Decision("d", 1, OLD, 1, 0, "allow", 0.5))
        for future in engine.waiting:
            if status is None:
                future.set_exception(WorkerAway("the worker went away"))
            else:
                future.set_result(engine_pb2.Result(status=status))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lane.in_flight == 0
        assert len(capture.pairs) == (3 if is_pair else 0)
        assert capture.causes == ([] if is_pair else ["shadow_engine_unavailable"] * 3)

    asyncio.run(story())
