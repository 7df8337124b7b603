"""One gateway: build everything, serve, drain."""

import argparse
import asyncio
import contextlib
import functools
import gc
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from gateway.engines.link import WorkerLink
from gateway.engines.pool import Pool
from gateway.engines.settings import remote_links
from gateway.metrics import Metrics, Sources
from gateway.rpc.access import Scoped, with_access
from gateway.rpc.bootstrap import Listen
from gateway.rpc.control_channel import control_channel
from gateway.rpc.direct import DirectFront
from gateway.rpc.envoy import EnvoyFront, FrontFailed, is_installed
from gateway.rpc.grpcio import GrpcioFront
from gateway.rpc.health import HealthState
from gateway.rpc.methods import build_methods
from gateway.rpc.override import with_override
from gateway.rpc.plan_watch import PlanWatch
from gateway.rpc.ports import Gateway as Served
from gateway.rpc.wire import Method
from gateway.serving.asking import Asking
from gateway.serving.cache import DecisionCache
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import Counters
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.dispatch import Dispatcher
from gateway.serving.hedge import Hedger
from gateway.serving.lanes import Lanes
from gateway.serving.overridden import Overridden
from gateway.serving.recording import Recording
from gateway.serving.sampling import Sampler
from gateway.serving.shadow import ShadowLane
from gateway.serving.witness import Witness, witness_key
from gateway.settings import FRONTS, GatewaySettings
from protos.contract.access import AccessFile
from protos.contract.attestation import KeyInvalid, Operators, read_public
from protos.contract.bundle import BundleInvalid
from protos.contract.cached_store import cached
from protos.contract.digest import JsonMalformed
from protos.contract.fields import FieldInvalid
from protos.contract.process_log import log_to_stderr
from protos.contract.seal import SealKeyFile

if TYPE_CHECKING:
    from gateway.tracing import Tracing

log = structlog.get_logger()
HEALTH_INTERVAL_S = 0.1
YOUNG_OBJECTS = 20_000  # what some hundred calls in flight are made of


async def _watch_health(health: HealthState, dispatcher: Dispatcher) -> None:
    """Keep health true. Readiness follows links and plans; looking often needs no hook in either."""
    while True:
        health.set(dispatcher.is_ready())
        await asyncio.sleep(HEALTH_INTERVAL_S)


class Gateway:
    """Everything behind a front. ``start`` and ``stop`` once each, on the event loop that serves the calls."""

    def __init__(self, settings: GatewaySettings) -> None:
        tracing = _tracing(settings)  # first: what is missing is told before anything is begun
        key = read_public(settings.plan_key)
        run_id = secrets.token_hex(4)
        self._settings = settings
        self._tracing = tracing
        self._metrics = metrics = Metrics()
        self._store = store = cached(settings.bundles_dir, settings.bundles_url, settings.bundles_max_bytes)
        workers = [WorkerLink(socket) for socket in settings.worker_sockets]
        self._pool = pool = Pool([*workers, *remote_links(settings.engines, store)], store.manifest, settings.preload)
        self._capture = capture = _capture_lane(settings, run_id, metrics)
        counters = Counters()
        cache = DecisionCache(settings.cache_max_entries)
        lanes = Lanes(settings.lanes, settings.max_in_flight)
        self.plan = plan = CurrentPlan(
            deployment=settings.deployment,
            key=key,
            operators=functools.partial(Operators.read, settings.operators),
            store=store,
            pool=pool,
            lanes=lanes,
            cache=cache,
            state_dir=settings.state_dir,
            metrics=metrics,
            witness=Witness(
                settings.deployment,
                key,
                gateway_id=settings.gateway_id,
                own_key=witness_key(settings.state_dir),
            ),
        )
        hedger = Hedger(pool, settings.hedge_share) if settings.hedge_share else None
        shadow = ShadowLane(pool, capture, counters, max_in_flight=settings.shadow_max_in_flight)
        asking = Asking(pool, shadow, max_in_flight=settings.max_in_flight, hedger=hedger)
        recording = Recording(capture, Sampler(settings.capture_extra), counters, metrics)
        self._dispatcher = dispatcher = Dispatcher(plan, pool, asking, recording, counters)
        metrics.in_flight.set_function(lambda: dispatcher.in_flight)
        metrics.read_at_scrape(Sources(dispatcher.all_statistics, pool, lanes, cache, hedger, counters))
        self._health = HealthState()
        self.methods = _methods(settings, dispatcher, plan, self._health, metrics, tracing)
        self._watch = _plan_watch(settings, run_id, plan, counters, capture) if settings.control else None
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bring back the last good plan, connect workers, follow the control plane."""
        loop = asyncio.get_running_loop()
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        if self._settings.metrics_port:
            self._metrics.serve(self._settings.metrics_port, self._settings.metrics_address)
        self._background = [asyncio.create_task(link.run()) for link in self._pool.links]
        self._background.append(asyncio.create_task(_watch_health(self._health, self._dispatcher)))
        await self.plan.restore()
        self._background.append(asyncio.create_task(self._preload()))
        if self._watch is not None:
            self._background.append(asyncio.create_task(self._watch.run()))

    async def _preload(self) -> None:
        for bundle in self._settings.preload if self._store.is_filled else ():
            try:
                await asyncio.to_thread(self._store.fetch, bundle)
            except (BundleInvalid, OSError) as error:
                log.warning("preload_refused", bundle=bundle, error=str(error))
        self._pool.preload()

    def count_calls(self, open_calls: Callable[[], int], refused: Callable[[], int]) -> None:
        """Tell the metrics how many calls the front has, and how many it refused."""
        self._metrics.count_calls(open_calls, refused)

    def refuse_new_calls(self) -> None:
        """Answer NOT_SERVING and UNAVAILABLE from now on, so that balancers and callers go elsewhere."""
        self._health.drain()
        self._dispatcher.draining = True

    async def stop(self) -> None:
        """End what runs beside the calls and write what was captured."""
        for task in self._background:
            task.cancel()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._capture.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


def _tracing(settings: GatewaySettings) -> "Tracing | None":
    """Make tracing where it is asked for; its libraries are an extra of their own."""
    if not settings.trace_endpoint:
        return None
    try:
        from gateway.tracing import Tracing
    except ModuleNotFoundError as error:
        raise FieldInvalid(
            f"gateway.trace_endpoint is {settings.trace_endpoint!r}, expected none without {error.name}; "
            "pip install 'interlock[trace]'"
        ) from error
    return Tracing.to_collector(settings.trace_endpoint, ratio=settings.trace_ratio, gateway_id=settings.gateway_id)


def _capture_lane(settings: GatewaySettings, run_id: str, metrics: Metrics) -> CaptureLane:
    return CaptureLane(
        settings.capture_dir,
        run_id,
        settings.gateway_id,
        metrics,
        max_records=settings.capture_max_records,
        quota_bytes=settings.capture_quota_bytes,
        segment_bytes=settings.capture_segment_bytes,
        flush_s=settings.capture_flush_s,
        segment_s=settings.capture_segment_s,
        seal=None if settings.capture_seal_key is None else SealKeyFile(settings.capture_seal_key),
    )


def _methods(
    settings: GatewaySettings,
    dispatcher: Dispatcher,
    plan: CurrentPlan,
    health: HealthState,
    metrics: Metrics,
    tracing: "Tracing | None",
) -> tuple[Method, ...]:
    """Build the method table, and around it what asks who calls, who may name a bundle, and what is traced."""
    build = functools.partial(
        build_methods,
        health=health,
        version=version("interlock"),
        rules=settings.mutations,
        network_s=settings.mutation_network_ms / 1000,
        note=metrics.mutation_decided,
        local=plan,
        gateway_id=settings.gateway_id,
    )

    def traced(gateway: Served) -> Served:
        return gateway if tracing is None else tracing.gateway(gateway)

    def table(scoped: Callable[[Served], Served]) -> tuple[Method, ...]:
        return with_override(
            build(scoped(traced(dispatcher))),
            settings.testers,
            lambda wanted: build(scoped(traced(Overridden(dispatcher, wanted)))),
        )

    methods = table(lambda gateway: gateway)
    if settings.access is not None:
        note = metrics.access_refused
        methods = with_access(
            methods,
            AccessFile(settings.access, lambda problem: log.error("access_file_refused", problem=problem)),
            note,
            lambda p: table(lambda gateway: Scoped(gateway, p, note)),
        )
    return methods if tracing is None else tracing.methods(methods)


def _plan_watch(
    settings: GatewaySettings, run_id: str, plan: CurrentPlan, counters: Counters, capture: CaptureLane
) -> PlanWatch:
    return PlanWatch(
        settings.control,
        gateway_id=settings.gateway_id,
        run_id=run_id,
        plan=plan,
        counters=counters,
        capture=capture,
        report_interval_s=settings.report_interval_s,
        channel=lambda: control_channel(
            settings.control,
            settings.control_token,
            settings.control_ca,
            settings.control_certificate,
            settings.control_key,
        ),
    )


def _stop_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def _front_here(settings: GatewaySettings, methods: tuple[Method, ...]) -> GrpcioFront | DirectFront:
    if settings.front == "direct":
        return DirectFront(
            methods,
            address=settings.listen,
            max_message_bytes=settings.max_message_bytes,
            max_connections=settings.max_connections,
            max_calls=settings.max_calls,
        )
    return GrpcioFront(
        methods,
        address=settings.listen,
        max_message_bytes=settings.max_message_bytes,
        max_connections=settings.max_connections,
        tls=settings.tls,
    )


def open_more_files() -> None:
    """Open as many files as this process may: at the usual 1,024, callers' connections leave none for the plan's."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve_here(settings: GatewaySettings) -> None:
    """Serve in this process until SIGTERM or SIGINT, then drain."""
    open_more_files()
    gateway = Gateway(settings)
    front = _front_here(settings, gateway.methods)
    stopping = _stop_signals()
    await gateway.start()
    port = await front.start()
    gateway.count_calls(lambda: front.in_flight, front.refused)
    _settle()
    log.info("gateway_ready", front=settings.front, port=port, generation=gateway.plan.generation)
    await stopping.wait()
    gateway.refuse_new_calls()
    # Health answers NOT_SERVING first, so that a load balancer stops sending before connections go.
    await asyncio.sleep(settings.drain_delay_s)
    await front.drain(settings.drain_grace_s)
    await gateway.stop()
    log.info("gateway_stopped")


async def serve_envoy(settings: GatewaySettings) -> None:
    """Serve behind an Envoy child until SIGTERM or SIGINT, then drain."""
    open_more_files()
    listen = Listen(
        settings.listen,
        settings.max_message_bytes,
        settings.tls,
        max_connections=settings.max_connections,
        max_calls=settings.max_calls,
        is_tcp=settings.front == "envoy-tcp",
    )
    gateway = Gateway(settings)
    front = EnvoyFront(listen, gateway.methods)
    stopping = _stop_signals()
    await gateway.start()
    port = await front.start()
    gateway.count_calls(lambda: front.in_flight, front.refused)
    _settle()
    log.info(
        "gateway_ready",
        front=settings.front,
        port=port,
        generation=gateway.plan.generation,
        pid=front.pid,
    )
    asked, ended = asyncio.create_task(stopping.wait()), asyncio.create_task(front.ended())
    await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        asked.cancel()
        await front.close()
        await gateway.stop()
        raise FrontFailed(f"Envoy ended by itself with {ended.result()}")
    gateway.refuse_new_calls()
    # Health answers NOT_SERVING first, so that a load balancer stops sending before connections go.
    await asyncio.sleep(settings.drain_delay_s)
    await front.drain(settings.drain_grace_s)
    await ended
    await gateway.stop()
    log.info("gateway_stopped")


def _settle() -> None:
    """Take what was built at the start out of the garbage collector's sight.

    Looking all through it takes longer than many a call has. Calls leave no cycles behind, so there is little to
    look for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def main() -> None:
    """Entry point; wrong settings exit with 2 and a sentence."""
    parser = argparse.ArgumentParser("python -m gateway", description="Answer decisions from a verified traffic plan.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with a table [gateway]")
    parser.add_argument("--front", choices=FRONTS, help="in place of the setting gateway.front")
    chosen = parser.parse_args()
    log_to_stderr()
    try:
        settings = GatewaySettings.read(chosen.config).on_front(chosen.front, has_envoy=is_installed())
        uvloop.run(serve_envoy(settings) if settings.front.startswith("envoy") else serve_here(settings))
    except (FieldInvalid, KeyInvalid, JsonMalformed, OSError, RuntimeError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)
