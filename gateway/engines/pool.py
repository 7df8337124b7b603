"""Which worker answers for a bundle, and what its answers have cost so far."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from gateway.engines.breakers import Breakers
from gateway.engines.link import WorkerAway, WorkerLink


class Pool:
    """The workers of this machine. A bundle is ready when at least one of them has it."""

    def __init__(self, sockets: Iterable[str]) -> None:
        self.links = [WorkerLink(socket) for socket in sockets]
        # Of one worker there is nothing to choose, so nothing to learn.
        self.breakers = Breakers() if len(self.links) > 1 else None

    def pick(self, bundle: str, but: WorkerLink | None = None) -> WorkerLink:
        """Return the ready worker, ``but`` one, that is expected to be done first; raises WorkerAway."""
        ready: Sequence[WorkerLink] = [link for link in self.links if bundle in link.ready]
        if self.breakers is not None and self.breakers.ejected:
            ready = self.breakers.healthy(ready, bundle)
        if but is not None:
            ready = [link for link in ready if link is not but]
        if not ready:
            raise WorkerAway(bundle)
        if len(ready) == 1:
            return ready[0]
        now = time.monotonic()
        return min(ready, key=lambda link: (link.load_of_late.expected_s(link.in_flight, now), link.in_flight))

    def ended(self, link: WorkerLink, bundle: str, taken_s: float, now: float, *, is_good: bool | None) -> None:
        """Learn how a call ended.

        Args:
            taken_s: What it cost; all the time the call had where no answer came of it.
            is_good: None when it says nothing of the worker's health: no time, no room.
        """
        link.load_of_late.observe(taken_s, now)
        if self.breakers is not None and is_good is not None:
            self.breakers.observe(link, bundle, is_good, now)

    def is_ready(self, bundle: str) -> bool:
        """Say whether some worker can answer for the bundle now."""
        return any(bundle in link.ready for link in self.links)

    async def load(self, bundle: str) -> None:
        """Make a bundle ready on every connected worker, waiting for the first one to be there.

        Raises:
            WorkerAway: No worker took it.
            BundleRefused: A worker refused it.
        """
        waits = [asyncio.ensure_future(link.connected.wait()) for link in self.links]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        loads = []
        for link in self.links:
            if link.connected.is_set():
                loads.append(link.load(bundle))
            else:
                link.want(bundle)
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, WorkerAway):
                raise outcome
        if not self.is_ready(bundle):
            raise WorkerAway(bundle)

    def want(self, bundle: str) -> None:
        """Have every worker load a bundle when it can."""
        for link in self.links:
            link.want(bundle)

    def keep_only(self, bundles: set[str]) -> None:
        """Forget bundles that no plan needs any more."""
        for link in self.links:
            for bundle in link.wanted - bundles:  # one that is still loading, too
                link.unload(bundle)
        if self.breakers is not None:
            self.breakers.keep_only(bundles)
