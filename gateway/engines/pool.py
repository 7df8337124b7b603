"""Which engine answers for a bundle."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from gateway.domain.capabilities import Capabilities
from gateway.engines.breakers import Breakers
from gateway.serving.ports import BundleRefused, EngineLink, WorkerAway
from protos.contract.bundle import BundleInvalid, Manifest
from protos.contract.task import LABEL_LOGPROBS

log = structlog.get_logger()


class Pool:
    """Workers of this machine and servers elsewhere. A bundle is ready when at least one of them has it."""

    def __init__(
        self, links: Iterable[EngineLink], manifest_of: Callable[[str], Manifest], preload: Sequence[str] = ()
    ) -> None:
        self.links = list(links)
        self.preloads = tuple(preload)  # bundles to have ready whatever the plan says
        self._needed: Collection[str] = ()
        self._held: Collection[str] = ()
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._manifest_of = manifest_of
        # Of one engine there is nothing to choose, so nothing to learn.
        self.breakers = Breakers() if len(self.links) > 1 else None

    def pick(self, bundle: str, but: EngineLink | None = None) -> EngineLink:
        """Return the ready engine, ``but`` one, that is expected to be done first; raises WorkerAway."""
        ready: Sequence[EngineLink] = [link for link in self.links if bundle in link.ready]
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

    def ended(self, link: EngineLink, bundle: str, taken_s: float, now: float, *, is_good: bool | None) -> None:
        """Learn how a call ended.

        Args:
            taken_s: What it cost; all the time the call had where no answer came of it.
            is_good: None when it says nothing of the worker's health: no time, no room.
        """
        link.load_of_late.observe(taken_s, now)
        if self.breakers is not None and is_good is not None:
            self.breakers.observe(link, bundle, is_good, now)

    def is_ready(self, bundle: str) -> bool:
        """Say whether some engine can answer for the bundle now."""
        return any(bundle in link.ready for link in self.links)

    def capabilities(self, bundle: str) -> Capabilities | None:
        """Return what the least exact engine that has the bundle can do; None when none has it."""
        found = [caps for link in self.links if (caps := link.capabilities(bundle)) is not None]
        return max(found, key=lambda caps: LABEL_LOGPROBS.index(caps.label_logprobs), default=None)

    async def load(self, bundle: str) -> None:
        """Make a bundle ready on every engine it belongs to, waiting for the first one to be there.

        Raises:
            WorkerAway: No engine took it.
            BundleRefused: An engine refused it, or none is configured that bundles of its kind belong to.
        """
        links = self._eligible(bundle)
        waits = [asyncio.ensure_future(link.connected.wait()) for link in links]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        loads = []
        for link in links:
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
        """Have every engine the bundle belongs to load it when it can; raises BundleRefused."""
        for link in self._eligible(bundle):
            link.want(bundle)

    @contextmanager
    def holding(self, bundles: Collection[str]) -> Iterator[None]:
        """Let none of these go meanwhile: a plan that needs them is being loaded, whatever else happens."""
        self._held = bundles
        for bundle in set(bundles).intersection(self._leaving):
            self._leaving.pop(bundle).cancel()
        try:
            yield
        finally:
            self._held = ()

    def keep_only(self, bundles: set[str]) -> None:
        """Forget bundles that no plan needs any more, but for those that are to stay ready.

        Calls that began under the last plan still wait for its bundles, so a ready one goes when the longest of them
        has ended: its task's deadline.
        """
        self._needed, kept = bundles, bundles.union(self.preloads, self._held)
        for bundle in kept.intersection(self._leaving):
            self._leaving.pop(bundle).cancel()
        unneeded: set[str] = set().union(*(link.wanted for link in self.links)) - kept
        for bundle in unneeded.difference(self._leaving):
            patience_s = self._longest_call_s(bundle) if self.is_ready(bundle) else 0.0
            if patience_s:
                self._leaving[bundle] = asyncio.get_running_loop().call_later(patience_s, self._unload, bundle)
            else:
                self._unload(bundle)
        self.preload()
        if self.breakers is not None:
            self.breakers.keep_only(bundles)

    def _longest_call_s(self, bundle: str) -> float:
        try:
            return self._manifest_of(bundle).task.deadline_us / 1e6
        except BundleInvalid:  # its files are gone already
            return 0.0

    def _unload(self, bundle: str) -> None:
        self._leaving.pop(bundle, None)
        for link in self.links:
            if bundle in link.wanted:
                link.unload(bundle)

    def preload(self) -> None:
        """Have the bundles ready that are to be, besides those that the plan needs."""
        for bundle in self.preloads:
            if bundle in self._needed:
                continue
            try:
                links = self._eligible(bundle)
            except BundleRefused as error:
                log.warning("preload_refused", bundle=bundle, error=str(error))
                continue
            for link in links:
                link.preload(bundle)

    def _eligible(self, bundle: str) -> list[EngineLink]:
        try:
            manifest = self._manifest_of(bundle)
        except BundleInvalid as error:
            raise BundleRefused(str(error)) from error
        found = [link for link in self.links if link.serves(manifest)]
        if not found:
            model = manifest.engine.get("model")
            what = f"kind {manifest.backend!r}" + (f" with model {model!r}" if model else "")
            raise BundleRefused(f"bundle {bundle}: no engine of {what} is configured here")
        return found
