"""What is asked of a running worker over its socket, beside decisions: what it holds; to break a bundle on purpose."""

import asyncio
import contextlib
from pathlib import Path

from protos import engine_pb2
from protos.contract.frames import FrameDecoder, encode

PATIENCE_S = 90.0


class FaultRefused(RuntimeError):
    """A worker did not take a fault; says why."""


async def inject(socket: Path, bundle: str, kind: int, delay_us: int = 0) -> None:
    """Break a bundle on purpose, or heal it.

    Raises:
        FaultRefused: The worker does not take faults, or does not hold the bundle.
        OSError: Nobody answers.
    """
    fault = engine_pb2.InjectFault(id=1, bundle_digest=bundle, kind=kind, delay_us=delay_us)  # type: ignore[arg-type]
    said = await _ask(socket, engine_pb2.Frame(inject_fault=fault), "fault_injected", PATIENCE_S)
    if not said.fault_injected.ok:
        raise FaultRefused(f"{socket.stem} refused a fault: {said.fault_injected.error}")


async def stats(socket: Path, patience_s: float = PATIENCE_S) -> engine_pb2.Stats:
    """Return what a worker holds and has done so far; raises OSError where nobody answers in time."""
    frame = engine_pb2.Frame(stats_request=engine_pb2.StatsRequest())
    return (await _ask(socket, frame, "stats", patience_s)).stats


async def _ask(socket: Path, frame: engine_pb2.Frame, answer: str, patience_s: float) -> engine_pb2.Frame:
    decoder = FrameDecoder()
    async with asyncio.timeout(patience_s):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        with contextlib.closing(writer):
            writer.write(encode(frame))
            while data := await reader.read(65536):
                for said in decoder.feed(data):
                    if said.WhichOneof("body") == answer:
                        return said
    raise ConnectionError(f"{socket} hung up before it answered")
