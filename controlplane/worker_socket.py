"""What a test or a measurement asks of a running worker over its socket: break a bundle, say what happened so far."""

import asyncio
import contextlib
from pathlib import Path

from protos import engine_pb2
from protos.contract.frames import FrameDecoder, encode

PATIENCE_S = 90.0


async def inject(socket: Path, bundle: str, kind: int, delay_us: int = 0) -> None:
    """Break a bundle on purpose, or heal it; raises RuntimeError with the worker's reason."""
    fault = engine_pb2.InjectFault(id=1, bundle_digest=bundle, kind=kind, delay_us=delay_us)  # type: ignore[arg-type]
    said = await _ask(socket, engine_pb2.Frame(inject_fault=fault), "fault_injected")
    if not said.fault_injected.ok:
        raise RuntimeError(f"{socket.stem} refused a fault: {said.fault_injected.error}")


async def stats(socket: Path) -> engine_pb2.Stats:
    """Return what happened so far."""
    return (await _ask(socket, engine_pb2.Frame(stats_request=engine_pb2.StatsRequest()), "stats")).stats


async def _ask(socket: Path, frame: engine_pb2.Frame, answer: str) -> engine_pb2.Frame:
    decoder = FrameDecoder()
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        with contextlib.closing(writer):
            writer.write(encode(frame))
            while True:
                for said in decoder.feed(await reader.read(65536)):
                    if said.HasField(answer):  # type: ignore[arg-type]
                        return said
