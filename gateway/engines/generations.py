"""Texts that a worker is writing, each read by its caller as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from gateway.domain.capabilities import Constraint
from gateway.serving.ports import GenerationFailed, GenerationRefused, WorkerAway
from protos import engine_pb2
from protos.contract.given import Given

CHUNKS_QUEUED = 256


class Generations:
    """The streams of one link. ``send`` may raise WorkerAway; ``ids`` numbers what is sent."""

    def __init__(self, send: Callable[[engine_pb2.Frame], None], ids: Iterator[int]) -> None:
        self._send = send
        self._ids = ids
        self._streams: dict[int, asyncio.Queue[engine_pb2.Chunk]] = {}

    def put(self, chunk: engine_pb2.Chunk) -> None:
        """Hand a piece to whoever reads it."""
        stream = self._streams.get(chunk.id)
        if stream is not None:
            # A reader that fell this far behind loses the stream rather than the gateway its memory.
            with contextlib.suppress(asyncio.QueueFull):
                stream.put_nowait(chunk)

    def fail(self) -> None:
        """End every stream: the worker went away."""
        for number in list(self._streams):
            self.put(engine_pb2.Chunk(id=number, last=True, status=engine_pb2.RESULT_STATUS_ENGINE_ERROR))
        self._streams.clear()

    async def generate(
        self, bundle: str, given: Given, remaining_us: int, max_tokens: int, constraint: Constraint | None
    ) -> AsyncIterator[engine_pb2.Chunk]:
        """Stream one generation; cancels it in the worker when the reader stops.

        Raises:
            WorkerAway: Nothing was started.
            GenerationRefused: The request cannot be kept.
            GenerationFailed: The worker failed.
        """
        number = next(self._ids)
        stream: asyncio.Queue[engine_pb2.Chunk] = asyncio.Queue(CHUNKS_QUEUED)
        job = engine_pb2.GenerateJob(
            id=number,
            bundle_digest=bundle,
            remaining_us=max(remaining_us, 0),
            input=given.message(),
            max_tokens=max_tokens,
        )
        if constraint is not None and constraint.kind == "choice":
            job.constraint.choice.texts.extend(constraint.choices)
        elif constraint is not None:
            setattr(job.constraint, constraint.kind, constraint.pattern)
        self._send(engine_pb2.Frame(generate=job))
        self._streams[number] = stream
        is_over = False
        try:
            while not is_over:
                chunk = await stream.get()
                is_over = chunk.last
                if chunk.status == engine_pb2.RESULT_STATUS_BAD_INPUT:
                    raise GenerationRefused(chunk.message)
                if chunk.status != engine_pb2.RESULT_STATUS_OK:
                    raise GenerationFailed(chunk.message)
                yield chunk
        finally:
            self._streams.pop(number, None)
            if not is_over:
                with contextlib.suppress(WorkerAway):
                    self._send(engine_pb2.Frame(cancel=engine_pb2.Cancel(id=number)))
