"""Build a worker, serve its socket, drain on a signal."""

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import socket
import stat
import time
from dataclasses import asdict
from pathlib import Path
from typing import cast

import structlog
import uvloop

from gateway.worker import settings as worker_settings
from gateway.worker.backend import Host, NoRoom, installed_backends
from gateway.worker.device import DeviceThread
from gateway.worker.engine import Engine, open_engine
from gateway.worker.faults import Faults
from gateway.worker.holders import Holders
from gateway.worker.queue import Queue
from gateway.worker.runner import IdInUse, Runner
from gateway.worker.settings import Settings
from protos import engine_pb2
from protos.contract.base import FOLDER
from protos.contract.bundle import BundleInvalid
from protos.contract.cached_store import cached, cached_bases
from protos.contract.fields import FieldInvalid
from protos.contract.frames import PROTOCOL, FrameDecoder, FrameMalformed, encode
from protos.contract.given import Given
from protos.contract.process_log import log_to_stderr
from protos.contract.rows import JobRow, ResultRow, read_job, write_result

log = structlog.get_logger()

BACKLOG = 128
MAX_LOADS = 64  # Load frames waiting for an answer; a plan names far fewer bundles
DRAIN_CHECK_S = 0.005
LOADER_NICENESS = 10  # a tenth of a core that live calls want too, all of one that they leave


class SocketInUse(Exception):
    """The socket path belongs to a living worker, or is not a socket."""


class Worker:
    """What every connection shares: the runner, the bundles and the thread that loads them."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.device = DeviceThread(loop, "device")
        backends = installed_backends()
        # Threads that a model starts while it is loaded yield for good: none may do so that batches run on.
        runs_elsewhere = settings.threads > 1 or "tensorrt_llm" in backends
        self.loader = DeviceThread(loop, "loader", niceness=0 if runs_elsewhere else LOADER_NICENESS)
        self.runner = Runner(
            loop=loop,
            device=self.device,
            loader=self.loader,
            queue=Queue(settings.max_queue, settings.token_budget),
            faults=Faults(settings.allow_faults),
        )
        self.runner.on_gone = self._tell_unloaded
        self.connections: set[Connection] = set()
        self.owners = itertools.count(1)
        self.hello = encode(
            engine_pb2.Frame(
                hello=engine_pb2.Hello(
                    worker_id=settings.worker_id,
                    protocol=PROTOCOL,
                    backends=backends,
                    max_queue=settings.max_queue,
                )
            )
        )
        limit = settings.bundles_max_bytes
        self._store = cached(settings.bundles, settings.bundles_url, limit)
        self._bases = cached_bases(settings.bases or settings.bundles / FOLDER, settings.bundles_url, limit)
        self._host = Host(
            threads=settings.threads,
            bases=self._bases,
            max_rank=settings.max_rank,
            max_adapters=settings.max_adapters,
        )
        self._loading: dict[str, list[tuple[Connection, int]]] = {}
        self.holders: Holders[Connection] = Holders()

    def load(self, connection: "Connection", request: engine_pb2.Load) -> None:
        """Verify and warm a bundle beside the device's own work; loading it again is harmless."""
        digest = request.bundle_digest
        self.holders.hold(digest, connection, is_preload=request.preload)
        if digest in self.runner.engines:
            connection.send(self._loaded(request.id, digest, self.runner.engines[digest], 0))
            return
        if sum(map(len, self._loading.values())) >= MAX_LOADS:
            connection.send(_not_loaded(request.id, digest, f"{MAX_LOADS} loads are waiting already"))
            return
        waiting = self._loading.setdefault(digest, [])
        waiting.append((connection, request.id))
        if len(waiting) > 1:
            return
        started = time.monotonic()

        def read() -> Engine:
            return open_engine(self._store.load(digest), self._host)

        def done(engine: Engine | None, error: BaseException | None) -> None:
            took_ms = round((time.monotonic() - started) * 1000)
            if self._loading.get(digest) is not waiting:  # unloaded, perhaps asked for again, in the meantime
                if engine is not None:
                    self.loader.run(engine.backend.close, lambda _, __: None)
                for asker, id in waiting:
                    asker.send(_not_loaded(id, digest, "unloaded while it was loading"))
                return
            del self._loading[digest]
            if isinstance(error, NoRoom) and (least := self._least_needed(digest, error.base)) is not None:
                self._loading[digest] = waiting
                reason = f"its place was needed for {digest}"
                self.runner.remove(least, then=lambda: self.loader.run(read, done))
                self.holders.forget(least)
                self._tell_unloaded(least, reason)
                return
            if engine is None:
                self.holders.forget(digest)
                problem = str(error) or type(error).__name__
                log.warning("bundle_refused", bundle=digest[:80], error=problem)
                for asker, id in waiting:
                    asker.send(_not_loaded(id, digest, problem))
                return
            self.runner.add(engine)
            self._trim()
            log.info("bundle_loaded", bundle=digest, backend=type(engine.backend).__name__, load_ms=took_ms)
            for asker, id in waiting:
                asker.send(self._loaded(id, digest, engine, took_ms))

        self.loader.run(read, done)

    def _trim(self) -> None:
        """Let go of fetched bundles and bases that no gateway holds, where there are too many; beside the device."""
        if not self._store.is_filled:
            return
        keep = self.holders.held() | set(self.runner.engines) | set(self._loading)

        def trim() -> list[str]:
            gone = self._store.trim(keep)
            bases = set()
            for digest in keep:
                with contextlib.suppress(BundleInvalid):  # it is loaded, or will be fetched
                    bases.add(str(self._store.manifest(digest).base.get("digest", "")))
            return gone + self._bases.trim(bases)

        def done(gone: list[str] | None, error: BaseException | None) -> None:
            if gone or error is not None:
                log.info("bundles_trimmed", bundles=gone, error=error and str(error))

        self.loader.run(trim, done)

    def _least_needed(self, wanted: str, base: str) -> str | None:
        """Return the bundle on a base that makes room for a wanted one; a preload takes room from nobody."""
        if self.holders.is_preload(wanted):
            return None
        on_base = {bundle for bundle, engine in self.runner.engines.items() if engine.group.startswith(base)}
        return next((bundle for bundle in self.holders.preloads() if bundle in on_base), None)

    def stats(self) -> engine_pb2.Stats:
        """Say what happened so far and what is on the device."""
        found = self.runner.stats()
        for bundle, engine in sorted(self.runner.engines.items()):
            found.bundles.add(
                bundle_digest=bundle,
                specialist=engine.task.name,
                backend=engine.kind,
                preload=self.holders.is_preload(bundle),
                bytes=engine.backend.resident_bytes,
            )
        for base in self._host.residents():
            found.bases.add(**asdict(base))
        return found

    def _tell_unloaded(self, digest: str, reason: str) -> None:
        log.error("engine_gone", bundle=digest, reason=reason)
        frame = engine_pb2.Frame(unloaded=engine_pb2.Unloaded(bundle_digest=digest, reason=reason))
        for connection in self.connections:
            connection.send(frame)

    def unload(self, connection: "Connection", digest: str) -> None:
        """Free a bundle that no other gateway holds, also one that is still loading."""
        if self.holders.release(digest, connection):
            return
        self._loading.pop(digest, None)
        self.runner.remove(digest)
        self._trim()

    @staticmethod
    def _loaded(id: int, digest: str, engine: Engine, load_ms: int) -> engine_pb2.Frame:
        return engine_pb2.Frame(
            loaded=engine_pb2.Loaded(
                id=id,
                bundle_digest=digest,
                ok=True,
                can_generate=engine.can_generate,
                load_ms=load_ms,
                capabilities=engine.capabilities,
            )
        )


def _not_loaded(id: int, digest: str, problem: str) -> engine_pb2.Frame:
    return engine_pb2.Frame(loaded=engine_pb2.Loaded(id=id, bundle_digest=digest, ok=False, error=problem))


class Connection(asyncio.Protocol):
    """One peer: reads frames, writes answers, once per turn of the event loop."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._owner = next(worker.owners)
        self._decoder = FrameDecoder()
        self._outgoing: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who answers here."""
        # Not asserted: uvloop's transports behave as asyncio's without deriving from them.
        self.transport = cast(asyncio.Transport, transport)
        self._worker.connections.add(self)
        self.transport.write(self._worker.hello)

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody waits for this peer's jobs any more."""
        self.transport = None
        self._outgoing.clear()
        self._worker.connections.discard(self)
        self._worker.holders.leave(self)
        self._worker.runner.forget(self._owner)

    def pause_writing(self) -> None:
        """Take no more jobs from a peer that does not read its answers."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        if self.transport is not None:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Handle the frames these bytes complete, then start the device if it is free."""
        try:
            runner, owner, send = self._worker.runner, self._owner, self.send
            for frame in self._decoder.feed_rows(data, read_job):
                if isinstance(frame, JobRow):
                    runner.submit(owner, frame, send)
                else:
                    self._handle(frame)
        except (FrameMalformed, IdInUse) as error:
            log.warning("connection_closed", owner=self._owner, error=str(error))
            if self.transport is not None:
                self.transport.abort()
        self._worker.runner.pump()

    def send(self, frame: engine_pb2.Frame | ResultRow) -> None:
        """Write a frame at the end of this turn; a peer that is gone gets nothing."""
        if self.transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self.flush)
        self._outgoing.append(write_result(frame) if isinstance(frame, ResultRow) else encode(frame))

    def flush(self) -> None:
        """Write what waits."""
        if self.transport is not None and self._outgoing:
            self.transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _handle(self, frame: engine_pb2.Frame) -> None:
        runner = self._worker.runner
        kind = frame.WhichOneof("body")
        if kind == "job":
            job = frame.job
            given = Given.of(job.input)
            runner.submit(
                self._owner, JobRow(job.id, job.bundle_digest, job.remaining_us, job.priority, given), self.send
            )
        elif kind == "cancel":
            runner.cancel(self._owner, frame.cancel.id)
        elif kind == "generate":
            runner.generate(self._owner, frame.generate, self.send)
        elif kind == "load":
            self._worker.load(self, frame.load)
        elif kind == "unload":
            self._worker.unload(self, frame.unload.bundle_digest)
        elif kind == "stats_request":
            self.send(engine_pb2.Frame(stats=self._worker.stats()))
        elif kind == "inject_fault":
            fault = frame.inject_fault
            problem = runner.faults.inject(fault.bundle_digest, fault.kind, fault.delay_us)
            log.warning("fault_injected", bundle=fault.bundle_digest[:80], kind=fault.kind, refused=problem or None)
            answer = engine_pb2.FaultInjected(id=fault.id, ok=not problem, error=problem)
            self.send(engine_pb2.Frame(fault_injected=answer))
        else:
            raise FrameMalformed(f"frame {kind or 'without a body'} is not one a worker answers")


def listen(path: Path) -> socket.socket:
    """Bind the socket for this user only, in place of one that a dead worker left.

    Raises:
        SocketInUse: Somebody listens there, or the path is something else.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketInUse(f"{path} exists and is not a socket")
    except FileNotFoundError:
        pass
    else:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
            else:
                raise SocketInUse(f"{path} belongs to a worker that is running")
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # the file must never exist with a wider mode, not even for a moment
    try:
        server.bind(str(path))
    except BaseException:
        server.close()
        raise
    finally:
        os.umask(before)
    return server


def _unlink_own(path: Path, inode: int) -> None:
    """Remove the socket file unless a successor has put its own there."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what waits, within the drain timeout."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    listener = listen(settings.socket)
    inode = settings.socket.lstat().st_ino
    worker = Worker(settings, loop)
    try:
        server = await loop.create_unix_server(lambda: Connection(worker, loop), sock=listener, backlog=BACKLOG)
        # What the start built is looked through by the collector no more: that takes longer than many a job has.
        gc.collect()
        gc.freeze()
        log.info("worker_started", worker=settings.worker_id, socket=str(settings.socket))
        await stopped.wait()
        server.close()
        await _drain(worker, loop.time() + settings.drain_timeout_s, loop)
    finally:
        _unlink_own(settings.socket, inode)
    log.info("worker_stopped", worker=settings.worker_id, unfinished=not worker.runner.is_idle)


async def _drain(worker: Worker, until: float, loop: asyncio.AbstractEventLoop) -> None:
    worker.runner.is_stopping = True
    while not worker.runner.is_idle and loop.time() < until:
        await asyncio.sleep(DRAIN_CHECK_S)
    for connection in list(worker.connections):
        connection.flush()
        if connection.transport is not None:
            connection.transport.close()  # after its buffer is written
    while worker.connections and loop.time() < until:
        await asyncio.sleep(DRAIN_CHECK_S)
    worker.device.close(max(0.0, until - loop.time()))


def main() -> int:
    """Run a worker; return its exit status."""
    log_to_stderr()
    settings = worker_settings.parse()
    try:
        uvloop.run(serve(settings))
    except (SocketInUse, OSError) as error:
        log.error("worker_failed", socket=str(settings.socket), error=str(error))
        return 1
    except FieldInvalid as error:
        log.error("settings_invalid", error=str(error))
        return 2
    return 0
