"""Run one gateway: ``python -m gateway --config FILE``. Builds everything, serves, drains."""

import argparse
import asyncio
import contextlib
import secrets
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import structlog
import uvloop

from gateway.engines.pool import Pool
from gateway.metrics import Metrics
from gateway.rpc.grpcio import GrpcioFront
from gateway.rpc.health import HealthState
from gateway.rpc.methods import build_methods
from gateway.rpc.plan_watch import PlanWatch
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import Counters
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.dispatch import Dispatcher
from gateway.serving.shadow import ShadowLane
from gateway.settings import GatewaySettings
from protos.contract.attestation import KeyInvalid, Operators, read_public
from protos.contract.bundle import BundleStore
from protos.contract.digest import JsonMalformed
from protos.contract.fields import FieldInvalid

log = structlog.get_logger()
HEALTH_INTERVAL_S = 0.1


async def _watch_health(health: HealthState, dispatcher: Dispatcher) -> None:
    """Keep health true. Readiness follows links and plans; looking often needs no hook in either."""
    while True:
        health.set(dispatcher.is_ready())
        await asyncio.sleep(HEALTH_INTERVAL_S)


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    operators = Operators.read(settings.operators)
    key = read_public(settings.plan_key)
    run_id = secrets.token_hex(4)
    metrics = Metrics()
    pool = Pool(settings.worker_sockets)
    capture = CaptureLane(
        settings.capture_dir,
        run_id,
        settings.gateway_id,
        metrics,
        max_records=settings.capture_max_records,
        quota_bytes=settings.capture_quota_bytes,
        segment_bytes=settings.capture_segment_bytes,
        flush_s=settings.capture_flush_s,
    )
    counters = Counters()
    plan = CurrentPlan(
        deployment=settings.deployment,
        key=key,
        operators=operators,
        store=BundleStore(settings.bundles_dir),
        pool=pool,
        state_dir=settings.state_dir,
        metrics=metrics,
    )
    shadow = ShadowLane(pool, capture, metrics, max_in_flight=settings.shadow_max_in_flight)
    dispatcher = Dispatcher(plan, pool, shadow, capture, counters, metrics, max_in_flight=settings.max_in_flight)
    metrics.in_flight.set_function(lambda: dispatcher.in_flight)
    health = HealthState()
    front = GrpcioFront(
        build_methods(dispatcher, health, version=version("interlock")),
        address=settings.listen,
        max_message_bytes=settings.max_message_bytes,
    )
    if settings.metrics_port:
        metrics.serve(settings.metrics_port)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    background = [asyncio.create_task(link.run()) for link in pool.links]
    background.append(asyncio.create_task(_watch_health(health, dispatcher)))
    await plan.restore()
    port = await front.start()
    log.info("gateway_ready", port=port, generation=plan.generation)
    if settings.control:
        watch = PlanWatch(
            settings.control,
            gateway_id=settings.gateway_id,
            run_id=run_id,
            plan=plan,
            counters=counters,
            capture=capture,
            report_interval_s=settings.report_interval_s,
        )
        background.append(asyncio.create_task(watch.run()))

    await stopping.wait()
    health.drain()
    dispatcher.draining = True
    # Health answers NOT_SERVING first, so that a load balancer stops sending before calls are refused.
    await asyncio.sleep(settings.drain_delay_s)
    await front.drain(settings.drain_grace_s)
    for task in background:
        task.cancel()
    for task in background:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    capture.close()
    log.info("gateway_stopped")


def main() -> None:
    """Entry point; wrong settings exit with 2 and a sentence."""
    parser = argparse.ArgumentParser("python -m gateway", description="Answer decisions from a verified traffic plan.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with a table [gateway]")
    chosen = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        settings = GatewaySettings.read(chosen.config)
        uvloop.run(serve(settings))
    except (FieldInvalid, KeyInvalid, JsonMalformed, OSError, RuntimeError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
