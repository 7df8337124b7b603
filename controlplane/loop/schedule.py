"""When each step runs. The scheduler holds timers only: what is to be done is in the store."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from controlplane.errors import DatabaseUnavailable

log = structlog.get_logger()

Step = Callable[[], Awaitable[object]]


async def attempt(name: str, step: Step) -> object:
    """Run a step and return its result, or None where it failed: that must not stop the others, or itself next time."""
    try:
        return await step()
    except DatabaseUnavailable as error:
        log.warning("step_waits", step=name, error=str(error))
    except Exception:
        log.exception("step_failed", step=name)
    return None


class Schedule:
    """Repeats steps; one that is still running is not started again, and one that fails is tried again."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(executors={"default": AsyncIOExecutor()}, timezone="UTC")

    def every(self, seconds: float, name: str, step: Step) -> None:
        """Run a step every so many seconds."""

        async def guarded() -> None:
            try:
                await attempt(name, step)
            except asyncio.CancelledError:  # the process is ending; what was not finished is still in the store
                log.debug("step_left", step=name)

        self._scheduler.add_job(
            guarded, "interval", seconds=seconds, id=name, max_instances=1, coalesce=True, misfire_grace_time=None
        )

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """End every timer."""
        self._scheduler.shutdown(wait=False)
