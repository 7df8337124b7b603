"""A coroutine that is driven from here instead of by an asyncio.Task: a unary call costs no task."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any


def _nobody(payload: bytes | None, error: BaseException | None) -> None:
    """Take what nobody waits for."""


class Step:
    """A coroutine on its way.

    It begins on the next turn of the loop and its answer is told on the spot, where a task costs one turn more.
    Inside, it is the current task, as asyncio lets other implementations be (its manual, "Extending"), so timeouts
    and task groups work.
    """

    __slots__ = ("_context", "_done", "_is_cancelled", "_loop", "_requests", "_waits_for", "_work")

    def __init__(
        self,
        work: Coroutine[Any, Any, bytes],
        done: Callable[[bytes | None, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,  # looking for the running one is a system call
    ) -> None:
        self._work = work
        self._done = done
        self._loop = loop
        self._context = contextvars.copy_context()  # one of its own, as a task has
        self._waits_for: asyncio.Future[Any] | None = None
        self._is_cancelled = False
        self._requests = 0

    def begin(self) -> None:
        """Run until the first wait, once all that has come is read."""
        self._loop.call_soon(self._run, context=self._context)

    # As of asyncio.Task.

    def cancel(self, msg: object = None) -> bool:
        """Have what is awaited raise CancelledError inside."""
        self._requests += 1
        if self._waits_for is None or not self._waits_for.cancel():
            self._is_cancelled = True
        return True

    def cancelling(self) -> int:
        """Return how many cancellations were asked for and not taken back."""
        return self._requests

    def uncancel(self) -> int:
        """Take a cancellation back."""
        self._requests = max(0, self._requests - 1)
        return self._requests

    def _run(self, _: object = None) -> None:
        self._waits_for = None
        loop = self._loop
        ended: tuple[bytes | None, BaseException | None] | None = None
        asyncio._enter_task(loop, self)  # type: ignore[arg-type]
        try:
            if self._is_cancelled:
                self._is_cancelled = False
                waits = self._work.throw(asyncio.CancelledError())
            else:
                waits = self._work.send(None)
        except StopIteration as stopped:
            waits, ended = None, (stopped.value, None)
        except (Exception, asyncio.CancelledError) as error:
            waits, ended = None, (None, error)
        finally:
            asyncio._leave_task(loop, self)  # type: ignore[arg-type]
        if ended is not None:
            done, self._done = self._done, _nobody  # or each would hold the other until they are collected
            done(*ended)
        elif waits is None:
            loop.call_soon(self._run, context=self._context)
        else:
            waits._asyncio_future_blocking = False  # as a task does: the wait was seen
            self._waits_for = waits
            waits.add_done_callback(self._run, context=self._context)
            if self._is_cancelled and waits.cancel():  # asked for while it ran
                self._is_cancelled = False
