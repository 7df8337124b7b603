"""A thread beside the event loop: one runs a device, one loads bundles."""

import asyncio
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DeviceThread:
    """A thread that runs one thing at a time and reports back to the event loop.

    ``niceness`` is what it, and whatever thread it starts, yields to the others: on Linux each thread has its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, *, niceness: int = 0) -> None:
        self._loop = loop
        self._niceness = niceness
        self._inbox: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None] = (
            SimpleQueue()
        )
        # A daemon: native code that hangs must not keep a stopped worker alive.
        self._runs_on = threading.Thread(target=self._run, name=name, daemon=True)
        self._runs_on.start()

    def run(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run ``work`` on the thread, then ``done(result, error)`` on the event loop."""
        self._inbox.put((work, done))

    def close(self, timeout_s: float) -> None:
        """Let the thread finish what it was given."""
        self._inbox.put(None)
        self._runs_on.join(timeout_s)

    def _run(self) -> None:
        os.nice(self._niceness)
        while (item := self._inbox.get()) is not None:
            work, done = item
            result: Any = None
            problem: BaseException | None = None
            try:
                result = work()
            except BaseException as error:  # whatever a model does, the next batch still runs
                problem = error
            try:
                self._loop.call_soon_threadsafe(done, result, problem)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                return
