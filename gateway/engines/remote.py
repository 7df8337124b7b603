"""One remote engine as the request path sees it: deadlines, health, limits, and no garbage taken for an answer."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple

import structlog

from gateway.domain.balance import PeakEwma
from gateway.domain.capabilities import Capabilities, Constraint, Health
from gateway.engines.ports import (
    Broken,
    EngineProblem,
    Forgotten,
    GenerateJob,
    Identity,
    InputRefused,
    RemoteEngine,
    ScoreJob,
    Served,
    Unreachable,
)
from gateway.engines.results import answered, failed, in_short, unanswered
from gateway.engines.serving import calibrate, prepare
from gateway.serving.ports import BundleRefused, GenerationFailed, Result, WorkerAway
from protos import engine_pb2
from protos.contract.bundle import BundleInvalid, BundleStore, Manifest
from protos.contract.engines import EngineInexact, check_exactness
from protos.contract.given import Given
from protos.contract.head import Head
from protos.contract.probe import Probe, ProbeFailed, check_probes
from protos.contract.servers import belongs
from protos.contract.task import InputInvalid, check_input, render

log = structlog.get_logger()

HEALTH_INTERVAL_S = 1.0
HEALTH_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 30.0
PROBE_INTERVAL_S = 10.0


class RemoteLink:
    """A server that answers for some bundles. Asks after its health, and for every bundle again when it comes back."""

    def __init__(
        self,
        engine: RemoteEngine,
        *,
        name: str,
        kind: str,
        models: tuple[str, ...],
        store: BundleStore,
        max_in_flight: int,
        health_interval_s: float = HEALTH_INTERVAL_S,
        probe_interval_s: float = PROBE_INTERVAL_S,
    ) -> None:
        self._engine = engine
        self._name = name
        self._kind = kind
        self._models = models
        self._store = store
        self._max_in_flight = max_in_flight
        self._health_interval_s = health_interval_s
        self._probe_interval_s = probe_interval_s
        self._probed = time.monotonic()
        self._probing: asyncio.Task[None] | None = None
        self.load_of_late = PeakEwma()
        self.ready: set[str] = set()
        self.generators: set[str] = set()
        self.wanted: set[str] = set()
        self.preloads: set[str] = set()
        self.connected = asyncio.Event()
        self._health = Health(False, "not asked yet")
        self._look = asyncio.Event()
        self._ids = itertools.count(1)
        self._rounds = itertools.count()
        self._caller = f"{name}-{secrets.token_hex(6)}"  # other gateways may call theirs alike
        self._served: dict[str, tuple[Served, Head]] = {}
        self._capabilities: dict[str, Capabilities] = {}
        self._results: dict[int, tuple[asyncio.Future[Result], asyncio.Task[None]]] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._unloads: set[asyncio.Task[None]] = set()
        # What the server holds changes in the order it was asked to; bundles share adapters.
        self._turn = asyncio.Lock()
        self._problems: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The name its settings give it."""
        return self._name

    @property
    def in_flight(self) -> int:
        """How many scores wait for the server."""
        return len(self._results)

    def _id(self, number: int) -> str:
        return f"{self._caller}-{number}"

    def serves(self, manifest: Manifest) -> bool:
        """Say whether the bundle asks for this protocol and for a model that is here."""
        return belongs(manifest, self._kind, self._models)

    def health(self) -> Health:
        """Return what the server said when last asked."""
        return self._health

    def capabilities(self, bundle: str) -> Capabilities | None:
        """Return what was found when the bundle was loaded."""
        return self._capabilities.get(bundle) if bundle in self.ready else None

    async def run(self) -> None:
        """Look after the server until cancelled, then close."""
        try:
            while True:
                await self._check()
                self._look.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._health_interval_s):
                        await self._look.wait()
        finally:
            probing = [self._probing] if self._probing is not None else []
            results = [task for _, task in self._results.values()]
            for task in [*self._loads.values(), *self._unloads, *results, *probing]:
                task.cancel()
            await self._engine.close()

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                health = await self._engine.health()
        except TimeoutError:
            health = Health(False, f"no answer within {HEALTH_TIMEOUT_S:g} s")
        if health != self._health:
            log.info("remote_engine", engine=self._name, up=health.is_up, reason=health.reason or None)
        self._health = health
        if not health.is_up:
            self.connected.clear()
            self.ready.clear()
            self.generators.clear()
            return
        self.connected.set()
        for bundle, reason in (await self._engine.missing(frozenset(self.ready))).items():
            self._forget(bundle, reason)
        for bundle in self.wanted - self.ready - set(self._loads):
            self._start_load(bundle)
        now = time.monotonic()
        if now - self._probed >= self._probe_interval_s and (self._probing is None or self._probing.done()):
            self._probed = now
            self._probing = asyncio.ensure_future(self._probe_again(next(self._rounds)))

    async def _probe_again(self, number: int) -> None:
        """Ask each ready bundle one of its probes: nothing else tells of weights that changed under their name."""
        for bundle in sorted(self.ready):
            served, head = self._served.get(bundle, (None, None))
            if served is None or head is None or not served.probes:
                continue
            try:
                await self._probe(served, head, [served.probes[number % len(served.probes)]])
            except BundleRefused as error:
                self._forget(bundle, str(error))
            except EngineProblem as error:  # which says nothing of the weights
                self._look_again(bundle, error)

    def _start_load(self, bundle: str) -> "asyncio.Task[None]":
        task = self._loads.get(bundle)
        if task is None:
            task = self._loads[bundle] = asyncio.ensure_future(self._load(bundle))
            task.add_done_callback(lambda done: self._loaded(bundle, done))
        return task

    def _loaded(self, bundle: str, task: "asyncio.Task[None]") -> None:
        if self._loads.get(bundle) is task:
            del self._loads[bundle]
        problem = "" if task.cancelled() or task.exception() is None else str(task.exception())
        if problem and problem != self._problems.get(bundle):
            log.warning("bundle_refused", engine=self._name, bundle=bundle, error=problem)
        self._problems[bundle] = problem

    async def load(self, bundle: str) -> None:
        """Check, with the server, that it can answer for a bundle; raises WorkerAway or BundleRefused."""
        self.preloads.discard(bundle)
        self.wanted.add(bundle)
        if bundle in self.ready:
            return
        if not self.connected.is_set():
            raise WorkerAway(f"{self._name}: {self._health.reason}")
        try:
            await asyncio.shield(self._start_load(bundle))
        except BundleRefused:
            self.wanted.discard(bundle)
            raise

    async def _load(self, bundle: str) -> None:
        if bundle not in self._served:
            try:
                opened = await asyncio.to_thread(self._store.load, bundle)
            except BundleInvalid as error:
                raise BundleRefused(str(error)) from error
            self._served[bundle] = prepare(opened)
        served, head = self._served[bundle]
        try:
            async with self._turn:
                found = await self._engine.load(served)
            check_exactness(served.task, found.label_logprobs, self._kind)
            await self._probe(served, head, served.probes)
        except EngineInexact as error:
            raise BundleRefused(f"{self._name}: {error}") from error
        except Unreachable as error:
            kind = BundleRefused if isinstance(error, Forgotten) else WorkerAway
            raise kind(f"{self._name}: {error}") from error
        except EngineProblem as error:
            raise BundleRefused(f"{self._name}: {error}") from error
        if bundle not in self.wanted:
            return
        self._capabilities[bundle] = found
        self.ready.add(bundle)
        if found.can_generate:
            self.generators.add(bundle)

    async def identify(self, bundle: str) -> Identity:
        """Ask what the server calls a ready bundle's model and itself; one that tells nothing of it is left unnamed."""
        try:
            found = await self._engine.identify(self._served[bundle][0])
        except EngineProblem as error:
            log.info("remote_engine_unnamed", engine=self._name, error=str(error))
            return Identity()
        return Identity(*(in_short(said) for said in astuple(found)))

    async def _probe(self, served: Served, head: Head, probes: Sequence[Probe]) -> None:
        """Ask recorded probes, all at once: an engine that gathers does so here. Raises BundleRefused."""
        jobs = [_score_job(self._id(next(self._ids)), served, probe.text) for probe in probes]
        scores = await asyncio.gather(*[self._engine.score(job, PROBE_TIMEOUT_S) for job in jobs])
        found = [calibrate(one, len(served.task.labels), head).probabilities for one in scores]
        try:
            check_probes(probes, found)
        except ProbeFailed as error:
            raise BundleRefused(f"{self._name}: {error}") from error

    def want(self, bundle: str) -> None:
        """Load a bundle as soon as the server is up."""
        self.preloads.discard(bundle)
        self.wanted.add(bundle)
        self._look.set()

    def preload(self, bundle: str) -> None:
        """Load a bundle as any other: which adapters leave is the server's own matter."""
        self.want(bundle)
        self.preloads.add(bundle)

    def unload(self, bundle: str) -> None:
        """Forget a bundle, in the server too where it keeps something for it."""
        self.wanted.discard(bundle)
        self.preloads.discard(bundle)
        self.ready.discard(bundle)
        self.generators.discard(bundle)
        self._capabilities.pop(bundle, None)
        self._problems.pop(bundle, None)
        if (load := self._loads.pop(bundle, None)) is not None:
            load.cancel()
        if (kept := self._served.pop(bundle, None)) is not None and self.connected.is_set():
            task = asyncio.ensure_future(self._unload(kept[0]))
            self._unloads.add(task)
            task.add_done_callback(self._unloads.discard)

    async def _unload(self, served: Served) -> None:
        try:
            async with self._turn:
                await self._engine.unload(served)
        except EngineProblem as error:
            log.warning("unload_failed", engine=self._name, bundle=served.digest, error=str(error))

    def submit(
        self, bundle: str, given: Given, remaining_us: int, priority: int
    ) -> tuple[int, "asyncio.Future[Result]"]:
        """Start one score; the server forms its own batches, so ``priority`` stays here. Raises WorkerAway."""
        kept = self._served.get(bundle)
        if kept is None or bundle not in self.ready:
            raise WorkerAway(f"{self._name} has no bundle {bundle}")
        number = next(self._ids)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if len(self._results) >= self._max_in_flight:
            full = f"{self._max_in_flight} calls are open at {self._name}"
            future.set_result(failed(number, bundle, engine_pb2.RESULT_STATUS_OVERLOADED, full))
            return number, future
        task = asyncio.ensure_future(self._score(number, *kept, given, remaining_us / 1e6, future))
        self._results[number] = future, task
        return number, future

    async def _score(
        self,
        number: int,
        served: Served,
        head: Head,
        given: Given,
        remaining_s: float,
        future: "asyncio.Future[Result]",
    ) -> None:
        started, bundle = time.monotonic(), served.digest
        try:
            async with asyncio.timeout(max(remaining_s, 0)):
                check_input(served.task, given, len(given.raw))
                job = _score_job(self._id(number), served, render(served.task, given))
                scores = await self._engine.score(job, remaining_s)
            answer = calibrate(scores, len(served.task.labels), head)
            result = answered(number, served, head, scores, answer, time.monotonic() - started)
        except (InputInvalid, EngineProblem, TimeoutError) as error:
            result = unanswered(number, bundle, error)
            if isinstance(error, EngineProblem):
                self._look_again(bundle, error)
        except Exception as error:  # an adapter's mistake must not leave a caller waiting
            log.error("remote_engine_failed", engine=self._name, error=str(error), exc_info=True)
            result = unanswered(number, bundle, Broken(type(error).__name__))
        finally:
            self._results.pop(number, None)
        if not future.done():
            future.set_result(result)

    def _look_again(self, bundle: str, error: EngineProblem) -> None:
        """See at once whether a server that could not be reached is up, and load there what it has forgotten."""
        if isinstance(error, Forgotten):
            self._forget(bundle, str(error))
        if isinstance(error, Unreachable):
            self._look.set()

    def _forget(self, bundle: str, reason: str) -> None:
        """Have a bundle answer nobody until it is loaded again."""
        if bundle in self.ready:
            log.warning("bundle_forgotten", engine=self._name, bundle=bundle, reason=reason)
            self.ready.discard(bundle)
            self.generators.discard(bundle)

    def cancel(self, number: int) -> None:
        """Abort one score."""
        kept = self._results.pop(number, None)
        if kept is not None:
            future, task = kept
            future.cancel()
            task.cancel()

    async def generate(
        self,
        bundle: str,
        given: Given,
        remaining_us: int,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> AsyncIterator[engine_pb2.Chunk]:
        """Stream text; raises WorkerAway before anything was started, GenerationFailed afterwards."""
        kept = self._served.get(bundle)
        if kept is None or bundle not in self.generators:
            raise WorkerAway(f"{self._name} cannot generate for {bundle}")
        served = kept[0]
        number = next(self._ids)
        tokens = 0
        try:
            text = render(served.task, given)
            job = GenerateJob(self._id(number), served, text, max_tokens, _ids(served, text), constraint)
            pieces = self._engine.generate(job, remaining_us / 1e6)
            async with contextlib.aclosing(pieces) as open_pieces:  # type: ignore[type-var]
                async for piece in open_pieces:
                    tokens = piece.tokens
                    yield engine_pb2.Chunk(id=number, text=piece.text, tokens=tokens)
        except Unreachable as error:
            self._look_again(bundle, error)
            if not tokens:
                raise WorkerAway(str(error)) from error
            raise GenerationFailed(str(error)) from error
        except EngineProblem as error:
            raise GenerationFailed(str(error)) from error
        yield engine_pb2.Chunk(id=number, last=True, tokens=tokens)


def _ids(served: Served, text: str) -> tuple[int, ...]:
    if served.encode is None:
        return ()
    try:
        ids = tuple(served.encode(text))
    except InputInvalid as error:
        raise InputRefused(str(error)) from error
    if len(ids) > served.task.max_tokens:
        raise InputRefused(f"the prompt has {len(ids)} tokens, expected at most {served.task.max_tokens}")
    return ids


def _score_job(id: str, served: Served, text: str) -> ScoreJob:
    return ScoreJob(id, served, text, _ids(served, text))
