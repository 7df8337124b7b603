"""Frames to one local worker: submit, cancel, load; reconnect for ever."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, cast

import structlog

from gateway.domain.balance import PeakEwma
from gateway.domain.capabilities import Capabilities, Constraint, Health
from gateway.engines.generations import Generations
from gateway.serving.ports import BundleRefused, Result, WorkerAway
from protos import engine_pb2
from protos.contract.bundle import Manifest
from protos.contract.engines import REMOTE_KINDS
from protos.contract.frames import PROTOCOL, FrameDecoder, FrameMalformed, encode
from protos.contract.given import Given
from protos.contract.rows import ResultRow, read_result, write_job

log = structlog.get_logger()

RECONNECT_FIRST_S = 0.02
RECONNECT_MOST_S = 1.0
RELOAD_S = 1.0  # a model that dies at once must not be loaded in a loop


class WorkerLink(asyncio.Protocol):
    """One connection to one worker. Bundles asked for once are loaded again after every reconnect."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.load_of_late = PeakEwma()
        self.ready: set[str] = set()
        self.generators: set[str] = set()  # the ready bundles that can generate
        self.wanted: set[str] = set()  # asked for and not given up: ready, loading, or waiting for a worker
        self.preloads: set[str] = set()  # those that no plan needs: kept ready as long as nobody needs their room
        self._ids = itertools.count(1)
        self._results: dict[int, asyncio.Future[Result]] = {}
        self._loads: dict[int, asyncio.Future[engine_pb2.Loaded]] = {}
        self._generations = Generations(self._send, self._ids)
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop  # since it was connected: looking for it is a system call
        self._outgoing: list[bytes] = []
        self._lost = asyncio.Event()
        self.connected = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()
        self._capabilities: dict[str, Capabilities] = {}

    @property
    def name(self) -> str:
        """Its socket."""
        return self.socket

    def serves(self, manifest: Manifest) -> bool:
        """Say whether the bundle is for a worker; one without its library says so when asked to load it."""
        return manifest.backend not in REMOTE_KINDS

    def health(self) -> Health:
        """A worker that is connected is there; one that hangs shows in ``load_of_late``."""
        is_up = self.connected.is_set()
        return Health(is_up, "" if is_up else f"nobody listens on {self.socket}")

    def capabilities(self, bundle: str) -> Capabilities | None:
        """Return what the worker said when it loaded the bundle."""
        return self._capabilities.get(bundle) if bundle in self.ready else None

    @property
    def in_flight(self) -> int:
        """How many jobs wait for their answer."""
        return len(self._results)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        wait = RECONNECT_FIRST_S
        try:
            while True:
                self._lost.clear()
                try:
                    await asyncio.get_running_loop().create_unix_connection(lambda: self, self.socket)
                except OSError:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, RECONNECT_MOST_S)
                    continue
                wait = RECONNECT_FIRST_S
                await self._lost.wait()
        finally:
            if self._transport is not None:
                self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask again for every bundle that was wanted before."""
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self.connected.set()
        for bundle in sorted(self.wanted, key=self.preloads.__contains__):  # what a plan needs comes first
            self._load_again(bundle)

    def _load_again(self, bundle: str) -> None:
        task = asyncio.ensure_future(self._load(bundle))
        self._reloads.add(task)
        task.add_done_callback(self._reloaded)

    def _reloaded(self, task: "asyncio.Task[None]") -> None:
        self._reloads.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("reload_failed", socket=self.socket, error=str(task.exception()))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail everything that was waiting for this worker."""
        self._transport = None
        self.connected.clear()
        self.ready.clear()
        self.generators.clear()
        self._outgoing.clear()
        waiting: list[asyncio.Future[Any]] = [*self._results.values(), *self._loads.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(WorkerAway("the worker went away"))
        self._results.clear()
        self._loads.clear()
        self._generations.fail()
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        """Hand every answer to whoever waits for it."""
        try:
            frames = self._decoder.feed_rows(data, read_result)
        except FrameMalformed as error:
            log.error("worker_link_broken", socket=self.socket, error=str(error))
            assert self._transport is not None
            self._transport.abort()
            return
        for frame in frames:
            if isinstance(frame, ResultRow):
                self._answered(frame.id, frame)
                continue
            kind = frame.WhichOneof("body")
            if kind == "result":
                self._answered(frame.result.id, frame.result)
            elif kind == "loaded":
                loading = self._loads.pop(frame.loaded.id, None)
                if loading is not None and not loading.done():
                    loading.set_result(frame.loaded)
            elif kind == "chunk":
                self._generations.put(frame.chunk)
            elif kind == "unloaded":
                self._engine_died(frame.unloaded.bundle_digest, frame.unloaded.reason)
            elif kind == "hello" and frame.hello.protocol != PROTOCOL:
                log.error("worker_protocol", expected=PROTOCOL, found=frame.hello.protocol)
                assert self._transport is not None
                self._transport.abort()

    def _answered(self, number: int, result: Result) -> None:
        waiting = self._results.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)

    def _engine_died(self, bundle: str, reason: str) -> None:
        """Send the worker nothing for a bundle whose engine died, and ask for it anew after a pause."""
        log.error("engine_gone", socket=self.socket, bundle=bundle, reason=reason)
        self.ready.discard(bundle)
        self.generators.discard(bundle)
        self._capabilities.pop(bundle, None)
        if bundle in self.preloads:  # it made room; the next plan may leave some
            self.wanted.discard(bundle)
            return
        asyncio.get_running_loop().call_later(RELOAD_S, self._load_if_wanted, bundle)

    def _load_if_wanted(self, bundle: str) -> None:
        if bundle in self.wanted and bundle not in self.ready and self.connected.is_set():
            self._load_again(bundle)

    def _send(self, frame: engine_pb2.Frame) -> None:
        self._write(encode(frame))

    def _write(self, frame: bytes) -> None:
        if self._transport is None:
            raise WorkerAway("no worker is connected")
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(frame)

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def want(self, bundle: str) -> None:
        """Have the bundle loaded as soon as a worker is there, without waiting for it."""
        if bundle not in self.wanted or bundle in self.preloads:
            self.preloads.discard(bundle)
            self.wanted.add(bundle)
            if self.connected.is_set():
                self._load_again(bundle)

    def preload(self, bundle: str) -> None:
        """Have the bundle ready before a plan needs it, or still ready after one did; it gives way to those."""
        if bundle not in self.wanted or bundle not in self.preloads:
            self.wanted.add(bundle)
            self.preloads.add(bundle)
            if self.connected.is_set():
                self._load_again(bundle)

    async def load(self, bundle: str) -> None:
        """Have the worker verify and warm a bundle.

        Raises:
            WorkerAway: No worker is connected.
            BundleRefused: The worker refused the bundle; the message says why.
        """
        was_preload = bundle in self.preloads  # then the worker has to hear that it is needed now
        self.preloads.discard(bundle)
        self.wanted.add(bundle)
        if bundle in self.ready and not was_preload:
            return
        try:
            await self._load(bundle)
        except BundleRefused:
            self.wanted.discard(bundle)
            raise

    async def _load(self, bundle: str) -> None:
        number = next(self._ids)
        future: asyncio.Future[engine_pb2.Loaded] = asyncio.get_running_loop().create_future()
        self._send(
            engine_pb2.Frame(load=engine_pb2.Load(id=number, bundle_digest=bundle, preload=bundle in self.preloads))
        )
        self._loads[number] = future
        loaded = await future
        if not loaded.ok:
            raise BundleRefused(loaded.error)
        said = loaded.capabilities
        self._capabilities[bundle] = Capabilities(
            label_logprobs=said.label_logprobs,
            lora=said.lora or "none",
            prefix_cache=said.prefix_cache,
            constraints=tuple(said.constraints),
            can_generate=loaded.can_generate,
            vocabulary_mass=said.vocabulary_mass,
            max_batch_tokens=said.max_batch_tokens,
        )
        self.ready.add(bundle)
        if loaded.can_generate:
            self.generators.add(bundle)

    def unload(self, bundle: str) -> None:
        """Let the worker forget a bundle that no plan needs."""
        self.wanted.discard(bundle)
        self.preloads.discard(bundle)
        self.ready.discard(bundle)
        self.generators.discard(bundle)
        self._capabilities.pop(bundle, None)
        if self._transport is not None:
            self._send(engine_pb2.Frame(unload=engine_pb2.Unload(bundle_digest=bundle)))

    def submit(
        self, bundle: str, given: Given, remaining_us: int, priority: int
    ) -> tuple[int, "asyncio.Future[Result]"]:
        """Queue one job and return its number and its answer to come; never blocks."""
        number = next(self._ids)
        self._write(write_job(number, bundle, max(remaining_us, 0), priority, given.raw))
        future: asyncio.Future[Result] = self._loop.create_future()
        self._results[number] = future
        return number, future

    def cancel(self, number: int) -> None:
        """Tell the worker that nobody waits for a job any more."""
        future = self._results.pop(number, None)
        if future is not None:
            future.cancel()
            if self._transport is not None:
                self._send(engine_pb2.Frame(cancel=engine_pb2.Cancel(id=number)))

    def generate(
        self,
        bundle: str,
        given: Given,
        remaining_us: int,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> AsyncIterator[engine_pb2.Chunk]:
        """Stream one generation; raises WorkerAway where nothing was started, else GenerationFailed."""
        return self._generations.generate(bundle, given, remaining_us, max_tokens, constraint)
