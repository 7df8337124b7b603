"""A control plane killed at any step of a retraining: another goes on, and everything happens once."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from controlplane.loop import retrain
from controlplane.loop.work import MODULES, Worker
from controlplane.store import jobs, ledger, rollouts
from tests.controlplane.loop.fixture import NAME, World, world
from tests.controlplane.loop.stand_in import KILL_AT

STAND_IN = dict.fromkeys(MODULES, "tests.controlplane.loop.stand_in")
SMALL = {"examples": 20, "held_out": 10}
FORKED = get_context("forkserver")
FORKED.set_forkserver_preload([__name__])
POINTS = (
    "train: claimed",
    "train: prepared",
    "train: at work",
    "train: bundle written",
    "train: done",
    "evaluate: claimed",
    "evaluate: at work",
    "evaluate: written",
    "evaluate: done",
)


class Mortal(Worker):
    """Ends its process at one point."""

    def __init__(self, made: World, point: str) -> None:
        super().__init__(made.deployment, in_thread, modules=STAND_IN)
        self._point = point

    def _at(self, job: Any, step: str) -> None:
        if self._point == f"{job.kind}: {step}":
            os.kill(os.getpid(), signal.SIGKILL)

    def _prepare(self, job: Any, folder: Path) -> Path:
        self._at(job, "claimed")
        path = super()._prepare(job, folder)
        self._at(job, "prepared")
        return path

    def _finish(self, job: Any, result: dict[str, Any]) -> None:
        self._at(job, "done")
        super()._finish(job, result)


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


async def until_idle(worker: Worker) -> None:
    while await worker.run_one():
        pass


def mortal(root: Path, point: str) -> None:
    """Run every job, up to a point."""
    os.environ[KILL_AT] = point
    asyncio.run(until_idle(Mortal(world(root, training=SMALL), point)))


def killed_at(root: Path, point: str) -> int:
    """Run every job in a process of its own that is killed at a point; return the signal that ended it.

    It is forked from a process without threads: what other tests left here could wait in a fork for threads it lacks.
    """
    child = FORKED.Process(target=mortal, args=(root, point))
    child.start()
    child.join()
    assert child.exitcode is not None
    return -child.exitcode


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_repeats_that_step_and_nothing_is_skipped_or_doubled(tmp_path: Path, point: str) -> None:
    made = world(tmp_path, training=SMALL)
    with made.deployment.store.writing(made.clock()) as unit:
        asked = {"cause": "bootstrap", "reason": "first", "author": "trainer", "start_rollout": True}
        retrain.ask(unit, made.deployment, NAME, **asked)
    made.deployment.store.close()
    assert killed_at(tmp_path, point) == signal.SIGKILL
    after = world(tmp_path, training=SMALL)
    # Nobody may take the job while its lease could still be alive, and somebody must once it is not.
    asyncio.run(until_idle(Worker(after.deployment, in_thread, modules=STAND_IN)))
    with after.deployment.store.reading() as unit:
        assert jobs.DONE not in {job.state for job in jobs.listed(unit) if job.kind == point.split(":")[0]}
    after.clock.now_ms += int(1000 * after.deployment.settings.lease_s) + 1
    asyncio.run(until_idle(Worker(after.deployment, in_thread, modules=STAND_IN)))
    with after.deployment.store.reading() as unit:
        found = jobs.listed(unit)
        done = Counter(entry.action for entry in ledger.entries(unit.connection, 0, 1000))
        opened = rollouts.opened(unit)
    assert {(job.kind, job.state) for job in found} == {("train", jobs.DONE), ("evaluate", jobs.DONE)}
    assert len(found) == 2 and {job.kind: job.attempt for job in found}[point.split(":")[0]] == 2
    once = ("bundle.trained", "bundle.evaluated", "rollout.started")
    assert {action: done[action] for action in once} == dict.fromkeys(once, 1) and done["job.queued"] == 2
    trained = next(job.result["bundle_digest"] for job in found if job.kind == "train")
    assert [row.state.candidate for row in opened] == [trained]
    after.deployment.store.close()
