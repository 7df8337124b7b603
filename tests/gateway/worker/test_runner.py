"""The runner answers every job once, whatever a backend does."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.serving.ports import Result
from gateway.worker.backend import Prepared, Scores
from gateway.worker.device import DeviceThread
from gateway.worker.engine import Engine
from gateway.worker.faults import Faults
from gateway.worker.queue import Queue
from gateway.worker.runner import IdInUse, Runner
from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.head import Head
from protos.contract.rows import JobRow, ResultRow
from tests.tasks import TASK

BUNDLE = "sha256:" + "0" * 64


class ScriptedBackend:
    """Does what a test says."""

    resident_bytes = 0

    def __init__(self, answer: Callable[[int], NDArray[np.float32]]) -> None:
        self.answer = answer
        self.closed_on = ""

    def prepare(self, text: str) -> Prepared:
        return Prepared(len(text), False, text)

    def score(self, batch: Sequence[Prepared]) -> Scores:
        return Scores(self.answer(len(batch)))

    def warm(self) -> None: ...

    def close(self) -> None:
        self.closed_on = threading.current_thread().name


class SharingBackend(ScriptedBackend):
    """Has its base in common with others."""

    group = "base"


def explode(rows: int) -> NDArray[np.float32]:
    raise RuntimeError("the device is on fire")


def exits(rows: int) -> NDArray[np.float32]:
    raise SystemExit(3)


def good(rows: int) -> NDArray[np.float32]:
    return np.tile(np.array([[0.0, 2.0]], dtype=np.float32), (rows, 1))


async def with_runner(
    answer: Callable[[int], NDArray[np.float32]],
    act: Callable[[Runner, "asyncio.Queue[engine_pb2.Frame | ResultRow]"], Awaitable[None]],
    budget: int = 64,
) -> None:
    loop = asyncio.get_running_loop()
    device, loader = DeviceThread(loop, "device"), DeviceThread(loop, "loader")
    runner = Runner(loop, device, loader, Queue(16, budget), Faults(allowed=True))
    runner.add(Engine(BUNDLE, TASK, Head(), ScriptedBackend(answer)))
    try:
        async with asyncio.timeout(20):
            await act(runner, asyncio.Queue())
    finally:
        device.close(5)
        loader.close(5)


def job(id: int, text: str = "four", bundle: str = BUNDLE, **changes: int) -> JobRow:
    return JobRow(id, bundle, changes.get("remaining_us", 60_000_000), changes.get("priority", 0), Given.of_text(text))


def result_of(frame: engine_pb2.Frame | ResultRow) -> Result:
    return frame if isinstance(frame, ResultRow) else frame.result


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (explode, "on fire"),
        (exits, "3"),
        (lambda rows: np.full((rows, 2), np.nan, dtype=np.float32), "not finite"),
        (lambda rows: np.full((rows, 2), np.inf, dtype=np.float32), "not finite"),
        (lambda rows: np.zeros((rows, 3), dtype=np.float32), "shape"),
    ],
    ids=["raises", "exits", "nan", "inf", "wrong shape"],
)
def test_a_broken_backend_is_an_engine_error_and_the_worker_lives(
    answer: Callable[[int], NDArray[np.float32]], message: str
) -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        for id in (1, 2):
            runner.submit(7, job(id), answers.put_nowait)
            runner.pump()
            result = result_of(await answers.get())
            assert (result.id, result.status) == (id, engine_pb2.RESULT_STATUS_ENGINE_ERROR)
            assert message in result.message

    asyncio.run(with_runner(answer, act))


def test_jobs_that_arrive_together_run_together_up_to_the_budget() -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        for id in range(5):
            runner.submit(7, job(id), answers.put_nowait)
        runner.pump()
        results = [result_of(await answers.get()) for _ in range(5)]
        assert [r.id for r in results] == [0, 1, 2, 3, 4]
        assert [r.batch_size for r in results] == [3, 3, 3, 2, 2]
        assert results[0].label == 1
        assert results[0].score == pytest.approx(1 / (1 + np.exp(-2)))
        assert runner.is_idle

    asyncio.run(with_runner(good, act, budget=12))


def test_a_broken_candidate_on_a_shared_base_leaves_the_primarys_answers_alone() -> None:
    class Shared(ScriptedBackend):
        group = "base"

    def half(rows: int) -> NDArray[np.float32]:
        logits = good(rows)
        logits[-1] = np.nan
        return logits

    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        candidate = "sha256:" + "1" * 64
        runner.add(Engine(BUNDLE, TASK, Head(), Shared(half)))
        runner.add(Engine(candidate, TASK, Head(), Shared(half)))
        theirs = job(2, bundle=candidate, priority=engine_pb2.PRIORITY_CANARY)
        runner.submit(7, job(1), answers.put_nowait)
        runner.submit(7, theirs, answers.put_nowait)
        runner.pump()
        ours, broken = [result_of(await answers.get()) for _ in range(2)]
        assert (ours.id, ours.status, ours.batch_size) == (1, engine_pb2.RESULT_STATUS_OK, 2)
        assert (broken.id, broken.status) == (2, engine_pb2.RESULT_STATUS_ENGINE_ERROR)
        assert "not finite" in broken.message

    asyncio.run(with_runner(good, act))


def test_decisions_and_scores_are_the_heads() -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        runner.add(Engine(BUNDLE, TASK, Head(temperature=2.0, offsets=(0.0, 1.0)), ScriptedBackend(good)))
        runner.submit(7, job(1), answers.put_nowait)
        runner.pump()
        result = result_of(await answers.get())
        assert result.score == pytest.approx(1 / (1 + np.exp(-1)))
        assert (result.label, result.decision) == (1, 0)  # the cost matrix alone would block

    asyncio.run(with_runner(good, act))


def test_an_id_in_use_is_refused() -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        runner.submit(7, job(1), answers.put_nowait)
        with pytest.raises(IdInUse):
            runner.submit(7, job(1), answers.put_nowait)
        runner.submit(8, job(1), answers.put_nowait)

    asyncio.run(with_runner(good, act))


def test_cancelled_and_expired_jobs_are_told_so() -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        runner.submit(7, job(1), answers.put_nowait)
        runner.cancel(7, 1)
        runner.submit(7, job(2, remaining_us=0), answers.put_nowait)
        assert result_of(await answers.get()).status == engine_pb2.RESULT_STATUS_CANCELLED
        assert result_of(await answers.get()).status == engine_pb2.RESULT_STATUS_EXPIRED
        assert runner.is_idle

    asyncio.run(with_runner(good, act))


@pytest.mark.parametrize(("made", "thread"), [(ScriptedBackend, "loader"), (SharingBackend, "device")])
def test_unloading_answers_what_waited_and_frees_the_model_where_it_is_in_nobody_s_way(
    made: type[ScriptedBackend], thread: str
) -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        backend, is_gone = made(good), asyncio.Event()
        runner.add(Engine(BUNDLE, TASK, Head(), backend))
        runner.submit(7, job(1), answers.put_nowait)
        runner.remove(BUNDLE, then=is_gone.set)
        assert result_of(await answers.get()).status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE
        await is_gone.wait()
        assert backend.closed_on == thread

    asyncio.run(with_runner(good, act))


def test_a_thread_that_yields_does_so_alone() -> None:
    async def act(runner: Runner, answers: "asyncio.Queue[engine_pb2.Frame | ResultRow]") -> None:
        before, told = os.nice(0), asyncio.Queue[tuple[int | None, BaseException | None]]()
        yielding = DeviceThread(asyncio.get_running_loop(), "yielding", niceness=3)
        yielding.run(lambda: os.nice(0), lambda *said: told.put_nowait(said))
        assert await told.get() == (min(19, before + 3), None)
        yielding.close(5)
        assert os.nice(0) == before

    asyncio.run(with_runner(good, act))
