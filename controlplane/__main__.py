"""Run the control plane: ``python -m controlplane --config FILE``."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from threadpoolctl import threadpool_limits

from controlplane import metrics
from controlplane.errors import Unusable
from controlplane.loop import advance, drift, erasure, observe, recheck, triggers
from controlplane.loop.deployment import Deployment
from controlplane.loop.embedding import best_embedder
from controlplane.loop.operators import check_standing
from controlplane.loop.schedule import Schedule, attempt
from controlplane.loop.threads import Threads
from controlplane.loop.work import Worker
from controlplane.packs.registry import TrainingPack, load_pack
from controlplane.rpc.server import ControlServer
from controlplane.rpc.traffic import PlanBell
from controlplane.settings import ControlSettings, SpecialistSettings
from controlplane.store.artifacts import Artifacts
from controlplane.store.seals import opener_of
from controlplane.store.store import Store
from controlplane.store.vault import Vault
from protos.contract.attestation import KeyInvalid, read_private
from protos.contract.bundle import BundleStore
from protos.contract.digest import JsonMalformed
from protos.contract.fields import FieldInvalid
from protos.contract.plan_rules import PlanRefused
from protos.contract.process_log import log_to_stderr
from protos.contract.seal import Opener, read_opener
from protos.contract.url_store import UrlStore

log = structlog.get_logger()

NICENESS = 5  # no request waits for this process, so none should wait because of it
PATIENCE_S = 3.0  # for what threads are at when the process has to end; then they are left


def build(settings: ControlSettings, changed: Callable[[], None]) -> Deployment:
    """Open everything a deployment needs.

    Raises:
        FieldInvalid, KeyInvalid, Unusable: A setting cannot be used.
    """
    key = read_private(settings.plan_key)
    packs: dict[str, TrainingPack] = {}
    sources: dict[str, SpecialistSettings] = {}
    for source in settings.specialists:
        pack = load_pack(source.pack, source.data, source.suite)
        if pack.task.name in packs:
            raise FieldInvalid(f"controlplane.specialists names {pack.task.name!r} twice")
        packs[pack.task.name] = pack
        sources[pack.task.name] = source
    if settings.bundles_url:
        UrlStore(settings.bundles_url)  # now rather than at the first rollout
    if settings.database.startswith("sqlite:///"):
        Path(settings.database.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    vault = Vault(settings.capture_vault)
    deployment = Deployment(
        settings=settings,
        store=Store(settings.database, vault),
        artifacts=Artifacts(settings.artifacts_dir, vault),
        bundles=BundleStore(settings.bundles_dir),
        key=key,
        packs=packs,
        sources=sources,
        clock=lambda: time.time_ns() // 1_000_000,
        embedder=best_embedder(foreground=settings.training.foreground),
        opener=_opener(settings, vault),
        changed=changed,
    )
    people = deployment.operators()
    try:
        with deployment.store.reading() as unit:
            check_standing(unit, deployment, people)
    except PlanRefused as refused:
        raise FieldInvalid(f"{settings.operators}: {refused}") from refused
    return deployment


def _opener(settings: ControlSettings, vault: Vault) -> Opener | None:
    if settings.capture_seal is not None:
        return opener_of(vault)
    return None if settings.capture_key is None else read_opener(settings.capture_key)


async def serve(settings: ControlSettings) -> bool:
    """Run until told to stop; return whether every thread came to its end."""
    os.nice(NICENESS)
    threadpool_limits(1)  # statistics are small; threads of theirs would wait for each other beside everything else
    # Short transactions, long statistics and job bookkeeping must not wait for each other.
    threads = Threads({"steps": 1, "drift": 1, "jobs": 1, "calls": 4})
    loop = asyncio.get_running_loop()
    if settings.metrics_port:
        metrics.serve(settings.metrics_port, settings.metrics_address)
    bell = PlanBell()
    deployment = build(settings, bell.ring)
    server = ControlServer(deployment, threads.of("calls"), bell)
    worker = Worker(deployment, threads.of("jobs"))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def tick() -> None:
        observe.observe(deployment)
        advance.advance(deployment)

    schedule = Schedule()
    schedule.every(settings.tick_s, "tick", partial(threads.of("steps"), tick))
    looks = max(1.0, settings.tick_s)
    schedule.every(looks, "recheck", partial(threads.of("steps"), partial(recheck.watch, deployment)))
    schedule.every(
        max(60.0, settings.tick_s), "expire", partial(threads.of("steps"), partial(erasure.expire, deployment))
    )
    schedule.every(looks, "triggers", partial(threads.of("steps"), partial(triggers.watch, deployment)))
    schedule.every(looks, "drift", partial(threads.of("drift"), partial(drift.watch, deployment)))
    jobs = asyncio.create_task(_work(worker, settings.tick_s))
    port = await server.start(settings.listen)
    schedule.start()
    # What was built stays: looking through it for garbage took a sixth of the time that reading captures takes.
    gc.collect()
    gc.freeze()
    log.info("control_ready", port=port, deployment=settings.deployment, specialists=sorted(deployment.packs))
    await stopping.wait()
    schedule.stop()
    jobs.cancel()
    await asyncio.gather(jobs, return_exceptions=True)
    await server.stop()
    await asyncio.to_thread(deployment.embedder.close)  # what waits for vectors waits no longer
    if left := await threads.stop(PATIENCE_S):
        log.warning("control_stopped", left=left)
        return False
    deployment.store.close()
    log.info("control_stopped")
    return True


async def _work(worker: Worker, pause_s: float) -> None:
    while True:
        if await attempt("work", worker.run_one):
            continue
        await asyncio.sleep(pause_s)


def main() -> None:
    """Entry point; wrong settings exit with 2 and a sentence."""
    parser = argparse.ArgumentParser(
        "python -m controlplane", description="Watch traffic, train, evaluate, and move traffic once people approved."
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file with a table [controlplane]")
    chosen = parser.parse_args()
    log_to_stderr()
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        settings = ControlSettings.read(chosen.config)
        is_over = asyncio.run(serve(settings))
    except (FieldInvalid, KeyInvalid, JsonMalformed, Unusable, OSError, RuntimeError) as error:
        print(f"controlplane: {error}", file=sys.stderr)
        sys.exit(2)
    if not is_over:
        sys.stderr.flush()
        os._exit(0)  # the interpreter would wait for threads; nothing of theirs is half-done in the store


if __name__ == "__main__":
    main()
