"""Measure what gathering texts is worth: decisions per second of a real server, one text a request and many.

Usage: ``python -m perf.gathering [--in-flight 64] [--max-batch 16] [--seconds 5] [--rounds 3]``.

Triton and MLServer run on one core, this process with the gateway's own link and adapter on the other. Calls are made
in a closed loop, a round of each setting in turn. The model reads a text's length: what is measured is what a request
costs beside the model.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from gateway.engines.remote import RemoteLink
from gateway.engines.settings import make_engine
from gateway.serving.ports import BundleRefused
from perf.peers import label_models, mlserver, triton
from perf.peers.peer import Peer, PeerUnavailable
from perf.processes import Processes, free_port, load_core, on_core
from perf.request import MODEL, WORDS
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given
from protos.contract.servers import RemoteSettings
from protos.contract.task import Field, TaskSpec

START_S = 60.0
MINUTE_US = 60_000_000
WARM_CALLS = 200


def _bundle(store: BundleStore, preset: str) -> str:
    task = TaskSpec(
        name="length",
        description="two labels by the length of a text",
        fields=(Field("text", "text", True, False),),
        template="{text}",
        labels=("short", "long"),
        decisions=("short", "long"),
        cost=((0.0, 1.0), (1.0, 0.0)),
        score_label="long",
        fallback_decision="short",
        fallback_score=0.0,
        on_refusal="error",
        max_tokens=128,
        max_input_bytes=2048,
        deadline_us=60_000_000,
        reserve_us=0,
        capture_bp=0,
    )
    engine = {"backend": "oip", "preset": preset, "model": MODEL}
    return store.add(task=task, engine=engine, contents={}, base={}, lineage={}).digest


async def _ask(link: RemoteLink, bundle: str, given: Given) -> str:
    """Ask for one decision; return what went wrong."""
    result = await link.submit(bundle, given, MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]
    return "" if result.status == engine_pb2.RESULT_STATUS_OK else result.message or "no reason"


async def _rate(address: str, store: BundleStore, bundle: str, max_batch: int, in_flight: int, seconds: float) -> float:
    """Return decisions per second in a closed loop."""
    settings = RemoteSettings("peer", "oip", address, None, None, (), in_flight, 4, max_batch)
    link = RemoteLink(make_engine(settings), name="peer", kind="oip", models=(), store=store, max_in_flight=in_flight)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(START_S):
            while bundle not in link.ready:  # a server is up before its model is
                await link.connected.wait()
                with suppress(BundleRefused):
                    await link.load(bundle)
                await asyncio.sleep(0.05)
        given = Given.of_text(WORDS)
        loop = asyncio.get_running_loop()
        for _ in range(WARM_CALLS):  # connections that were refused while the server started come back
            while bundle not in link.ready or await _ask(link, bundle, given):
                await asyncio.sleep(0.05)
        until, done = loop.time() + seconds, 0

        async def caller() -> None:
            nonlocal done
            while loop.time() < until:
                if problem := await _ask(link, bundle, given):
                    raise RuntimeError(problem)
                done += 1

        started = loop.time()
        await asyncio.gather(*[caller() for _ in range(in_flight)])
        return done / (loop.time() - started)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _measure(peer: Peer, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name, Processes(Path(name) / "logs") as processes:
        folder = Path(name) / peer.name
        folder.mkdir()
        store = BundleStore(Path(name) / "bundles")
        bundle = _bundle(store, label_models.PRESETS[peer.name])
        port = free_port()
        python = peer.install()
        (command,) = peer.commands(python, folder, port)
        label_models.place(peer, folder)
        processes.start(peer.name, command.argv, folder, command.environment)
        found: dict[int, list[float]] = {1: [], options.max_batch: []}
        with on_core(load_core()):
            for _ in range(options.rounds):
                for max_batch, rates in found.items():
                    how = (f"127.0.0.1:{port}", store, bundle, max_batch, options.in_flight, options.seconds)
                    rates.append(asyncio.run(_rate(*how)))
        medians = {max_batch: statistics.median(rates) for max_batch, rates in found.items()}
        told = ", ".join(
            f"max_batch {max_batch}: {medians[max_batch]:,.0f} decisions/s ({min(rates):,.0f} to {max(rates):,.0f})"
            for max_batch, rates in found.items()
        )
        print(f"{peer.name} {peer.version(python)}, {options.in_flight} in flight, {told}")


def main() -> int:
    """Measure every peer that runs here."""
    parser = argparse.ArgumentParser(prog="python -m perf.gathering", description=__doc__.splitlines()[0])
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for peer in (triton.PEER, mlserver.PEER):
        try:
            _measure(peer, options)
        except PeerUnavailable as error:
            print(f"{peer.name}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
