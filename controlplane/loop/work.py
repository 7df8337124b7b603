"""Run queued jobs as child processes: one at a time, leased by heartbeat, ended with this process."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from controlplane.loop import deliver, evaluate, recheck, retrain
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import jobs
from controlplane.store.files import replace_file
from controlplane.store.store import Unit
from protos.contract.digest import canonical_json

log = structlog.get_logger()

T = TypeVar("T")
InThread = Callable[[Callable[[], T]], Any]
MODULES = {
    "train": "controlplane.training",
    "evaluate": "controlplane.evals",
    recheck.KIND: "controlplane.evals",
    deliver.KIND: "controlplane.training.deliver",
}
PREPARE = {
    "train": retrain.prepare,
    "evaluate": evaluate.prepare,
    recheck.KIND: recheck.prepare,
    deliver.KIND: deliver.prepare,
}
FINISHED = {
    "train": retrain.finished,
    "evaluate": evaluate.finished,
    recheck.KIND: recheck.finished,
    deliver.KIND: deliver.finished,
}
LAST_LINES = 20


class JobFailed(Exception):
    """A job's child said that it failed, or ended without a word."""


class Worker:
    """Takes one job after another.

    ``in_thread`` runs blocking calls away from the event loop; ``modules`` says which one each kind of job runs as.
    """

    def __init__(
        self, deployment: Deployment, in_thread: InThread[Any], *, modules: Mapping[str, str] = MODULES
    ) -> None:
        self._deployment = deployment
        self._modules = modules
        self._in_thread = in_thread
        self._stall_s = deployment.settings.training.stall_s

    async def run_one(self) -> bool:
        """Run the oldest job that nobody works on; return whether there was one."""
        job = await self._in_thread(self._claim)
        if job is None:
            return False
        log.info("job_started", job=job.id, kind=job.kind, attempt=job.attempt)
        try:
            result = await self._run(job)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever went wrong belongs to the job, and must not end the loop
            said = f"{type(error).__name__}: {error}" if not isinstance(error, JobFailed) else str(error)
            await self._in_thread(lambda: self._fail(job, said))
            log.warning("job_failed", job=job.id, error=said)
            return True
        await self._in_thread(lambda: self._finish(job, result))
        log.info("job_done", job=job.id)
        return True

    def _claim(self) -> Any:
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            return jobs.claim(unit, int(self._deployment.settings.lease_s * 1000))

    def _beat(self, job: Any, progress: float, message: str) -> bool:
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            return jobs.beat(unit, job.id, job.attempt, progress, message)

    def _fail(self, job: Any, message: str) -> None:
        with self._deployment.store.writing(self._deployment.clock()) as unit:
            if self._is_mine(unit, job):
                jobs.finish(unit, job.id, jobs.FAILED, message, None)
                unit.record(LOOP, "job.failed", {"job": job.id, "error": message[:2000]})

    def _finish(self, job: Any, result: dict[str, Any]) -> None:
        try:
            with self._deployment.store.writing(self._deployment.clock()) as unit:
                if self._is_mine(unit, job):
                    FINISHED[job.kind](unit, self._deployment, job, result)
                    jobs.finish(unit, job.id, jobs.DONE, "done", result)
        except Exception as error:  # rolled back whole; the job says why
            log.exception("job_not_finished", job=job.id)
            self._fail(job, f"{type(error).__name__}: {error}")

    @staticmethod
    def _is_mine(unit: Unit, job: Any) -> bool:
        now = jobs.get(unit, job.id)
        return now is not None and now.state == jobs.RUNNING and now.attempt == job.attempt

    async def _run(self, job: Any) -> dict[str, Any]:
        # One folder for all attempts: a training goes on from the checkpoint that a killed one left there.
        folder = self._deployment.settings.work_dir / job.id
        folder.mkdir(parents=True, exist_ok=True)
        state = _State()
        beats = asyncio.create_task(self._keep_lease(job, state))
        try:
            path = await self._in_thread(lambda: self._prepare(job, folder))
            return await self._child(job, path, folder / f"log.{job.attempt}.txt", state)
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats

    def _prepare(self, job: Any, folder: Path) -> Path:
        """Write a job's configuration; a training's is made once, so that every attempt trains on the same data."""
        path = folder / "config.json"
        if job.kind != "train" or not path.exists():
            config = PREPARE[job.kind](self._deployment, job, folder)
            replace_file(path, canonical_json(config))
        return path

    def _command(self, kind: str, config: Path) -> list[str]:
        """Return the child's command line; a training may run on a Ray cluster."""
        training = self._deployment.settings.training
        if kind == "train" and training.executor == "ray":
            module = [sys.executable, "-m", "controlplane.training.on_ray", "--address", training.ray_address]
            return [*module, "--config", str(config)]
        share = ["--foreground"] if training.foreground else []
        return [sys.executable, "-m", self._modules[kind], *share, "--config", str(config)]

    async def _child(self, job: Any, config: Path, log_path: Path, state: "_State") -> dict[str, Any]:
        with log_path.open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                *self._command(job.kind, config),
                stdin=asyncio.subprocess.PIPE,  # its end tells the child that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                limit=1 << 24,
            )
        state.process, state.heard = process, time.monotonic()
        result: dict[str, Any] | None = None
        problem = ""
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                event = json.loads(line)
                state.heard = time.monotonic()
                match event["event"]:
                    case "progress":
                        state.progress, state.message = float(event["fraction"]), str(event["message"])
                    case "done":
                        result = event["result"]
                    case "failed":
                        problem = str(event["error"])
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if state.is_lost:
            raise JobFailed("another attempt took this job over")
        if state.is_stalled:
            raise JobFailed(f"the child said nothing for {self._stall_s:g} s and was ended")
        if result is None:
            lines = log_path.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
            raise JobFailed(problem or f"the child ended with {process.returncode}: {' | '.join(lines)[-1000:]}")
        return result

    async def _keep_lease(self, job: Any, state: "_State") -> None:
        while True:
            await asyncio.sleep(min(1.0, self._deployment.settings.lease_s / 4))
            if not await self._in_thread(lambda: self._beat(job, state.progress, state.message)):
                state.is_lost = True
                return state.kill()
            if state.process is not None and time.monotonic() - state.heard > self._stall_s:
                # A child that hangs would keep its lease for ever.
                state.is_stalled = True
                return state.kill()


class _State:
    """What the child last said."""

    def __init__(self) -> None:
        self.progress = 0.0
        self.message = "preparing"
        self.process: asyncio.subprocess.Process | None = None
        self.heard = time.monotonic()
        self.is_lost = False
        self.is_stalled = False

    def kill(self) -> None:
        """End the child, if it is still there."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
