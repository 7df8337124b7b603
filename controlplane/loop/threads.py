"""Threads for what blocks: apart by kind, so that short steps never wait for long ones, and left behind at the end."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

Work = Callable[[], Any]


class Threads:
    """Named pools of threads.

    A thread cannot be ended. What threads of the control plane do is a transaction that did not commit or work that a
    job's lease gives to the next process, so a process that has to end may leave them as a kill would.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._pools = {name: ThreadPoolExecutor(size, name) for name, size in sizes.items()}
        self._open: dict[str, set[Future[Any]]] = {name: set() for name in sizes}

    def of(self, name: str) -> Callable[[Work], "asyncio.Future[Any]"]:
        """Return what runs a call in a thread of that name, for the loop to wait for."""
        return partial(self._run, name)

    def _run(self, name: str, work: Work) -> "asyncio.Future[Any]":
        future = self._pools[name].submit(work)
        self._open[name].add(future)
        future.add_done_callback(self._open[name].discard)
        return asyncio.wrap_future(future)

    async def stop(self, patience_s: float) -> list[str]:
        """Begin nothing more, and wait so long for what was begun; return the names of those still at work."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        begun = [asyncio.wrap_future(future) for futures in self._open.values() for future in list(futures)]
        if begun:
            await asyncio.wait(begun, timeout=patience_s)
        for future in begun:
            if future.done() and not future.cancelled():
                future.exception()  # whoever waited for it has been told, or is gone
        return sorted(name for name, futures in self._open.items() if futures)
