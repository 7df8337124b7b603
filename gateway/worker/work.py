"""What one job needs besides its place in the queue, and what the device does for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.worker.backend import Constrains, Generates, Prepared
from gateway.worker.engine import Answer, Engine, answer
from gateway.worker.queue import Waiting
from gateway.worker.replies import micros
from protos import decide_pb2, engine_pb2
from protos.contract.rows import ResultRow

Reply = Callable[[engine_pb2.Frame | ResultRow], None]


@dataclass(slots=True, eq=False)
class Work:
    """What one job needs besides its place in the queue.

    ``steps`` is the text being generated, once started, and ``pieces`` how much came out.
    """

    engine: Engine
    prepared: Prepared
    reply: Reply
    text: str = ""
    max_tokens: int = 0
    constraint: decide_pb2.Constraint | None = None
    steps: Iterator[str] | None = None
    pieces: int = 0
    is_cancelled: bool = False


Job = Waiting[Work]


def score(engines: list[Engine], prepared: list[Prepared], clock: Callable[[], float]) -> tuple[list[Answer], int]:
    """Run a batch and time it, on the device's thread."""
    started = clock()
    answers = answer(engines, prepared)
    return answers, micros(clock() - started)


def step(work: Work) -> str | None:
    """Produce the next piece of text, on the device's thread; None at the end."""
    if work.steps is None:
        backend = work.engine.backend
        if work.constraint is not None:
            assert isinstance(backend, Constrains)
            work.steps = iter(backend.generate_within(work.text, work.max_tokens, work.constraint))
        else:
            assert isinstance(backend, Generates)
            work.steps = iter(backend.generate(work.text, work.max_tokens))
    if work.pieces >= work.max_tokens:
        return None
    return next(work.steps, None)
