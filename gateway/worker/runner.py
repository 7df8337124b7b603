"""From frames to answers: one queue, one thread, one device."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from gateway.worker.backend import BackendGone, Constrains, ConstraintInvalid, Prepared
from gateway.worker.device import DeviceThread
from gateway.worker.engine import Answer, Engine
from gateway.worker.faults import Faults
from gateway.worker.queue import Left, Queue, Waiting
from gateway.worker.replies import (
    BAD_INPUT,
    CANCELLED,
    ENGINE_ERROR,
    LEFT,
    OK,
    OVERLOADED,
    UNKNOWN_BUNDLE,
    last_chunk,
    micros,
    refusal,
    short,
    with_more,
)
from gateway.worker.work import Job, Reply, Work, score, step
from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.rows import JobRow, ResultRow
from protos.contract.task import InputInvalid, check_input, render

log = structlog.get_logger()

MAX_DELAYED = 1 << 16  # answers a DELAY fault may hold back; beyond that they go out at once
DEFAULT_NEW_TOKENS = 64
MAX_NEW_TOKENS = 4096
LEAST_URGENT = int(max(engine_pb2.Priority.values()))


class IdInUse(Exception):
    """A connection reused the id of a job that is not answered yet."""


@dataclass(slots=True)
class Counts:
    """What happened since the worker started."""

    completed: int = 0
    expired: int = 0
    cancelled: int = 0
    batches: int = 0


@dataclass(slots=True)
class Runner:
    """Admit jobs, run batches, answer each job once. Lives on the event loop."""

    loop: asyncio.AbstractEventLoop
    device: DeviceThread
    loader: DeviceThread
    queue: Queue[Work]
    faults: Faults
    clock: Callable[[], float] = time.monotonic
    engines: dict[str, Engine] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    on_gone: Callable[[str, str], None] = lambda bundle, reason: None  # noqa: E731 - tell the gateways
    is_stopping: bool = False
    _running: dict[tuple[int, int], Job] = field(default_factory=dict)
    _delayed: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether every job that was admitted has been answered."""
        return not (len(self.queue) or self._running or self._delayed)

    def submit(self, owner: int, job: JobRow, reply: Reply) -> None:
        """Queue one job or answer it now; raises IdInUse."""

        def refuse(status: engine_pb2.ResultStatus, message: str) -> None:
            reply(refusal(job.id, job.bundle_digest, status, message))

        self._check_id(owner, job.id)
        admitted = self._prepare(job.bundle_digest, job.input, refuse)
        if admitted is not None:
            engine, prepared, _ = admitted
            self._offer(owner, job, Work(engine, prepared, reply), alone=False)

    def generate(self, owner: int, job: engine_pb2.GenerateJob, reply: Reply) -> None:
        """Queue one generation or answer it now; raises IdInUse."""

        def refuse(status: engine_pb2.ResultStatus, message: str) -> None:
            reply(last_chunk(job.id, status, message))

        self._check_id(owner, job.id)
        engine = self.engines.get(job.bundle_digest)
        if engine is not None and not engine.can_generate:
            refuse(ENGINE_ERROR, f"bundle {job.bundle_digest} cannot generate")
            return
        if engine is not None and job.HasField("constraint") and not isinstance(engine.backend, Constrains):
            refuse(BAD_INPUT, f"bundle {job.bundle_digest} cannot hold its text to a constraint")
            return
        admitted = self._prepare(job.bundle_digest, Given.of(job.input), refuse)
        if admitted is not None:
            engine, prepared, text = admitted
            limit = min(job.max_tokens or DEFAULT_NEW_TOKENS, MAX_NEW_TOKENS)
            constraint = job.constraint if job.HasField("constraint") else None
            self._offer(owner, job, Work(engine, prepared, reply, text, limit, constraint), alone=True)

    def cancel(self, owner: int, id: int) -> None:
        """Answer a waiting job CANCELLED. One on the device is answered when it is done there."""
        job = self.queue.cancel(owner, id)
        if job is not None:
            self.counts.cancelled += 1
            self._answer_status(job, CANCELLED, "cancelled")
        elif (running := self._running.get((owner, id))) is not None:
            running.work.is_cancelled = True

    def forget(self, owner: int) -> None:
        """Drop the jobs of a connection that ended."""
        self.counts.cancelled += len(self.queue.remove_where(lambda job: job.owner == owner))
        for job in self._running.values():
            if job.owner == owner:
                job.work.is_cancelled = True

    def add(self, engine: Engine) -> None:
        """Serve a bundle from now on."""
        self.engines[engine.digest] = engine

    def remove(self, bundle: str, then: Callable[[], None] = lambda: None) -> None:
        """Stop serving a bundle, free it once the device is done with it, and go on with ``then``."""
        engine = self.engines.pop(bundle, None)
        if engine is None:
            then()
            return
        for job in self.queue.remove_where(lambda job: job.bundle == bundle):
            self._answer_status(job, UNKNOWN_BUNDLE, f"bundle {bundle} was unloaded")

        def freed(_: object, error: BaseException | None) -> None:
            _log_problem(_, error)
            then()

        if engine.group:  # what it shares with others changes: never under a running batch
            self.device.run(engine.backend.close, freed)
        else:
            # No batch of it runs once the device's thread comes to this; to free a model takes longer than many a job.
            self.device.run(lambda: None, lambda _, __: self.loader.run(engine.backend.close, freed))

    def _quarantine(self, dead: Engine, reason: str) -> None:
        """Serve no bundle whose engine is dead, and say so before anybody waits for it."""
        for bundle, engine in list(self.engines.items()):
            if engine is dead or (dead.group and engine.group == dead.group):
                self.remove(bundle)
                self.on_gone(bundle, reason)

    def stats(self) -> engine_pb2.Stats:
        """Say what happened so far."""
        return engine_pb2.Stats(
            queued=len(self.queue),
            completed=self.counts.completed,
            expired=self.counts.expired,
            cancelled=self.counts.cancelled,
            batches=self.counts.batches,
            loaded=sorted(self.engines),
            resident_bytes=sum(engine.backend.resident_bytes for engine in self.engines.values()),
        )

    def pump(self) -> None:
        """Start the next batch when the device is free, and the one after it when the first took no time.

        Called once for all the frames of one read, so that jobs that arrive together run together.
        """
        while not self._running:
            started = self.clock()
            batch, expired = self.queue.take(started)
            for job in expired:
                self._answer_left(job, Left.EXPIRED)
            if not batch:
                return
            if batch[0].work.engine.is_instant and not batch[0].alone:
                self._score_here(batch, started)
            else:
                self._start(batch, started)

    def _start(self, batch: list[Job], started: float) -> None:
        self._running = {(job.owner, job.id): job for job in batch}
        if batch[0].alone:
            job = batch[0]
            self.device.run(lambda: step(job.work), lambda piece, error: self._stepped(job, piece, error))
            return
        self.counts.batches += 1
        engines = [job.work.engine for job in batch]
        prepared = [job.work.prepared for job in batch]
        self.device.run(
            lambda: score(engines, prepared, self.clock),
            lambda scored, error: self._scored(batch, started, scored, error),
        )

    def _score_here(self, batch: list[Job], started: float) -> None:
        """Run a batch that costs less than the way to the device's thread and back."""
        self.counts.batches += 1
        try:
            scored = score([job.work.engine for job in batch], [job.work.prepared for job in batch], self.clock)
        except Exception as error:
            self._answer_batch(batch, started, None, error)
        else:
            self._answer_batch(batch, started, scored, None)

    def _check_id(self, owner: int, id: int) -> None:
        if (owner, id) in self.queue or (owner, id) in self._running:
            raise IdInUse(f"id {id} belongs to a job that is not answered yet")

    def _prepare(
        self, bundle: str, given: Given, refuse: Callable[[engine_pb2.ResultStatus, str], None]
    ) -> tuple[Engine, Prepared, str] | None:
        if self.is_stopping:
            refuse(OVERLOADED, "the worker is stopping")
            return None
        engine = self.engines.get(bundle)
        if engine is None:
            refuse(UNKNOWN_BUNDLE, f"bundle {bundle[:80]} is not loaded here")
            return None
        try:
            check_input(engine.task, given, len(given.raw))
        except InputInvalid as error:
            refuse(BAD_INPUT, short(error))
            return None
        try:
            text = render(engine.task, given)
            return engine, engine.backend.prepare(text), text
        except InputInvalid as error:
            refuse(BAD_INPUT, short(error))
            return None
        except Exception as error:
            refuse(ENGINE_ERROR, short(error))
            return None

    def _offer(self, owner: int, job: JobRow | engine_pb2.GenerateJob, work: Work, *, alone: bool) -> None:
        now = self.clock()
        waiting = Waiting(
            owner=owner,
            id=job.id,
            bundle=job.bundle_digest,
            # A class from a newer peer is the least urgent one we know.
            priority=min(job.priority, LEAST_URGENT),
            deadline=now + job.remaining_us / 1e6,
            tokens=work.prepared.tokens,
            arrived=now,
            work=work,
            alone=alone,
            group=work.engine.group,
        )
        for gone, why in self.queue.offer(waiting, now):
            self._answer_left(gone, why)

    def _scored(
        self,
        batch: list[Job],
        started: float,
        scored: tuple[list[Answer], int] | None,
        error: BaseException | None,
    ) -> None:
        self._running = {}
        try:
            self.pump()  # first, so that the device works while answers are written
        finally:
            self._answer_batch(batch, started, scored, error)

    def _answer_batch(
        self, batch: list[Job], started: float, scored: tuple[list[Answer], int] | None, error: BaseException | None
    ) -> None:
        if scored is not None:
            self._answer_scores(batch, started, *scored)
            return
        log.warning("batch_failed", bundle=batch[0].bundle, error=short(error))
        if isinstance(error, BackendGone):
            self._quarantine(batch[0].work.engine, short(error))
        for job in batch:
            self._answer_status(job, ENGINE_ERROR, short(error))

    def _answer_scores(self, batch: list[Job], started: float, answers: list[Answer], engine_us: int) -> None:
        is_well, rows = self.faults.are_none, len(batch)
        for job, given in zip(batch, answers, strict=True):
            if not is_well and self.faults.is_failing(job.bundle):
                self._answer_status(job, ENGINE_ERROR, "injected fault")
                continue
            if given.problem:
                log.warning("row_failed", bundle=job.bundle, error=given.problem)
                self._answer_status(job, ENGINE_ERROR, given.problem)
                continue
            work = job.work
            engine, prepared = work.engine, work.prepared
            row = given.probabilities if is_well else self.faults.distort(job.bundle, given.probabilities)
            self.counts.completed += 1
            answered = ResultRow(
                job.id, row.index(max(row)), engine.head.decide(engine.task, row), row[engine.score_index],
                prepared.truncated, prepared.tokens, micros(started - job.arrived), engine_us, rows, job.bundle, row,
            )  # fmt: skip
            is_plain = given.vocabulary_mass is None and not (given.logprobs or given.is_bounded or given.reasons)
            frame = answered if is_plain else with_more(answered, given, engine.statements)
            if is_well:
                work.reply(frame)
            else:
                self._answer(job, frame)

    def _stepped(self, job: Job, piece: str | None, error: BaseException | None) -> None:
        self._running = {}
        work = job.work
        if error is not None:
            log.warning("generation_failed", bundle=job.bundle, error=short(error))
            if isinstance(error, BackendGone):
                self._quarantine(work.engine, short(error))
            # A bundle's own constraint is its own mistake.
            is_asked = isinstance(error, ConstraintInvalid) and work.constraint is not None
            self._answer_status(job, BAD_INPUT if is_asked else ENGINE_ERROR, short(error))
        elif self.faults.is_failing(job.bundle):
            self._answer_status(job, ENGINE_ERROR, "injected fault")
        elif work.is_cancelled:
            self.counts.cancelled += 1
            self._answer_status(job, CANCELLED, "cancelled")
        elif self.engines.get(job.bundle) is not work.engine:
            self._answer_status(job, UNKNOWN_BUNDLE, f"bundle {job.bundle} was unloaded")
        elif piece is None:
            self.counts.completed += 1
            self._answer(job, last_chunk(job.id, OK, "", work.pieces))
        else:
            work.pieces += 1
            self._answer(job, engine_pb2.Frame(chunk=engine_pb2.Chunk(id=job.id, text=piece, tokens=work.pieces)))
            # Back in line after every piece: a long text never holds the device against urgent jobs.
            self.queue.put_back(job)
        self.pump()

    def _answer_left(self, job: Job, why: Left) -> None:
        if why is Left.EXPIRED:
            self.counts.expired += 1
        self._answer_status(job, *LEFT[why])

    def _answer_status(self, job: Job, status: engine_pb2.ResultStatus, message: str) -> None:
        if job.alone:
            self._answer(job, last_chunk(job.id, status, message, job.work.pieces))
        else:
            self._answer(job, refusal(job.id, job.bundle, status, message))

    def _answer(self, job: Job, frame: engine_pb2.Frame | ResultRow) -> None:
        delay_s = self.faults.delay_s(job.bundle)
        if delay_s > 0 and self._delayed < MAX_DELAYED:
            self._delayed += 1
            self.loop.call_later(delay_s, self._answer_late, job, frame)
        else:
            job.work.reply(frame)

    def _answer_late(self, job: Job, frame: engine_pb2.Frame | ResultRow) -> None:
        self._delayed -= 1
        job.work.reply(frame)


def _log_problem(_: object, error: BaseException | None) -> None:
    if error is not None:
        log.warning("unload_failed", error=short(error))
