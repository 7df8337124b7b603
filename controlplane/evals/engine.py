"""A real engine worker, started for one evaluation: what is measured is what would serve."""

import contextlib
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from controlplane.evals import helpers
from protos import decide_pb2, engine_pb2
from protos.contract import frames
from protos.contract.task import TaskSpec

WINDOW = 64  # jobs in flight: enough to fill batches, and within any worker's queue
_JOB_US = 60_000_000
_STALL_S = 90.0  # a server elsewhere has half a minute for an adapter and another for the probes
_START_S = 60.0
_TOLERANCE = 1e-3  # of a sum of probabilities
_TELL = 32  # answers between two words on progress
_REFUSED = engine_pb2.RESULT_STATUS_BAD_INPUT
_NO_ANSWER = {False: (_REFUSED,), True: (_REFUSED, engine_pb2.RESULT_STATUS_ENGINE_ERROR)}  # by whether it is hostile
WORKER = (sys.executable, "-m", "gateway.worker")


class EngineFailed(Exception):
    """The worker did not start, load or answer; says what it said."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Answers in the order of the inputs."""

    probabilities: NDArray[np.float64]  # [inputs, labels]
    decisions: NDArray[np.int64]  # [inputs]
    latencies_ms: NDArray[np.float64]  # [inputs]: from sending a job to reading its result
    refused: tuple[int, ...] = ()  # places of inputs that were refused: they have the task's fallback


class Engine:
    """One worker process and the one connection to it; a context manager that ends the process."""

    def __init__(self, bundles: Path, command: Sequence[str] = WORKER) -> None:
        self._bundles = bundles.resolve()
        self._command = tuple(command)
        self._next_id = 0
        self._frames: deque[engine_pb2.Frame] = deque()
        self._decoder = frames.FrameDecoder()
        self._window = WINDOW

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-eval-")))
            self._log = scratch / "worker.log"
            address = scratch / "engine.sock"
            log = stack.enter_context(self._log.open("wb"))
            self._process = helpers.start(
                [*self._command, "--socket", str(address), "--bundles", str(self._bundles)], log
            )
            stack.callback(helpers.stop, self._process)
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._connect(address)
            hello = self._receive()
            if hello.WhichOneof("body") != "hello" or hello.hello.protocol != frames.PROTOCOL:
                raise EngineFailed(f"worker began with {hello}, expected Hello of protocol {frames.PROTOCOL}")
            self._window = max(1, min(WINDOW, hello.hello.max_queue or WINDOW))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def load(self, digest: str) -> list[engine_pb2.Server]:
        """Have the worker load a bundle, and return the servers elsewhere that a relay has for it.

        Raises:
            EngineFailed: It was refused; says why.
        """
        self._next_id += 1
        self._send(engine_pb2.Frame(load=engine_pb2.Load(id=self._next_id, bundle_digest=digest)))
        frame = self._receive()
        while frame.WhichOneof("body") != "loaded" or frame.loaded.id != self._next_id:
            frame = self._receive()
        if not frame.loaded.ok:
            raise EngineFailed(f"bundle {digest}: {frame.loaded.error}")
        return list(frame.loaded.servers)

    def score(
        self,
        digest: str,
        inputs: Sequence[str | decide_pb2.Input],
        window: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
        task: TaskSpec | None = None,
        is_hostile: bool = False,
    ) -> Scores:
        """Score texts or whole inputs with a loaded bundle, at most ``window`` at a time.

        ``progress`` is told now and then how many are done. With a task its fallback stands for an input that the
        engine refuses, and for a hostile one that it breaks over, as some servers put it, or that gets no answer of the
        task's.

        Raises:
            EngineFailed: An input got no answer, was refused and no task given, or the worker stopped answering.
        """
        window = min(window or self._window, self._window)
        waiting = deque(range(len(inputs)))
        flying: dict[int, tuple[int, float]] = {}
        results: dict[int, tuple[engine_pb2.Result, float]] = {}
        while len(results) < len(inputs):
            while waiting and len(flying) < window:
                index = waiting.popleft()
                self._next_id += 1
                given = inputs[index]
                job = engine_pb2.Job(
                    id=self._next_id,
                    bundle_digest=digest,
                    remaining_us=_JOB_US,
                    priority=engine_pb2.PRIORITY_BATCH,
                    input=decide_pb2.Input(text=given) if isinstance(given, str) else given,
                )
                flying[self._next_id] = (index, time.perf_counter())
                self._send(engine_pb2.Frame(job=job))
            frame = self._receive()
            if frame.WhichOneof("body") != "result" or frame.result.id not in flying:
                continue
            index, sent = flying.pop(frame.result.id)
            if frame.result.status == engine_pb2.RESULT_STATUS_OVERLOADED and window > 1:
                window //= 2  # the worker's queue is smaller than it said: ask for less at a time
                waiting.appendleft(index)
                continue
            _settle(task, frame.result, f"input {index}", is_hostile)
            results[index] = (frame.result, 1000 * (time.perf_counter() - sent))
            if len(results) % _TELL == 0:
                progress(len(results))
        ordered = [results[i] for i in range(len(inputs))]
        return Scores(
            probabilities=np.array([list(result.probabilities) for result, _ in ordered], dtype=np.float64),
            decisions=np.array([result.decision for result, _ in ordered], dtype=np.int64),
            latencies_ms=np.array([latency for _, latency in ordered]),
            refused=tuple(i for i, (result, _) in enumerate(ordered) if result.status == _REFUSED),
        )

    def _connect(self, address: Path) -> None:
        ends = time.monotonic() + _START_S
        while True:
            try:
                self._socket.connect(str(address))
                break
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise EngineFailed(f"worker did not start: {self._last_words()}") from error
                time.sleep(0.02)
        self._socket.settimeout(_STALL_S)

    def _send(self, frame: engine_pb2.Frame) -> None:
        try:
            self._socket.sendall(frames.encode(frame))
        except OSError as error:
            raise EngineFailed(f"worker does not read: {error}: {self._last_words()}") from error

    def _receive(self) -> engine_pb2.Frame:
        while not self._frames:
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise EngineFailed(f"worker does not answer: {error}: {self._last_words()}") from error
            if not data:
                raise EngineFailed(f"worker hung up: {self._last_words()}")
            self._frames.extend(self._decoder.feed(data))
        return self._frames.popleft()

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-500:].strip() or "it said nothing"


def _settle(task: TaskSpec | None, result: engine_pb2.Result, where: str, is_hostile: bool) -> None:
    """Put the task's fallback where an input may go without an answer of the task's; raises EngineFailed elsewhere."""
    is_of = task is None or _is_of(task, result)
    if task is not None and (result.status in _NO_ANSWER[is_hostile] or (is_hostile and not is_of)):
        result.CopyFrom(_fallback(task))
    elif not is_of:
        raise EngineFailed(f"{where}: the answer is none of the task's: {result}")
    elif result.status != engine_pb2.RESULT_STATUS_OK:
        raise EngineFailed(f"{where}: {engine_pb2.ResultStatus.Name(result.status)}: {result.message}")


def _is_of(task: TaskSpec, result: engine_pb2.Result) -> bool:
    """Say whether an answer, if it is one, keeps the contract, as a gateway looks at it."""
    if result.status != engine_pb2.RESULT_STATUS_OK:
        return True
    told = result.probabilities
    is_spread = len(told) == len(task.labels) and all(0 <= p <= 1 for p in told) and abs(sum(told) - 1) <= _TOLERANCE
    return is_spread and result.label < len(task.labels) and result.decision < len(task.decisions)


def _fallback(task: TaskSpec) -> engine_pb2.Result:
    """Return what a caller without an answer goes by: the fallback's decision and score, the other labels alike."""
    rest = (1 - task.fallback_score) / (len(task.labels) - 1)
    return engine_pb2.Result(
        status=_REFUSED,
        probabilities=[task.fallback_score if label == task.score_label else rest for label in task.labels],
        decision=task.decisions.index(task.fallback_decision),
    )
