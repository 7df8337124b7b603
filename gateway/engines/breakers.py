"""Which of several workers are left alone for a bundle, and how one of them proves itself.

The probe is a copy of a real request: the caller is answered by a healthy worker whatever the probe brings.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from gateway.domain.balance import PeakEwma
from gateway.domain.breaker import Breaker, State
from gateway.serving.ports import EngineLink, Result, WorkerAway
from protos import engine_pb2
from protos.contract.given import Given

Key = tuple[EngineLink, str]


class Breakers:
    """One breaker for each bundle on each worker that ever failed; used where there are several workers."""

    def __init__(self) -> None:
        self._breakers: dict[Key, Breaker] = {}
        self.ejected: dict[Key, Breaker] = {}  # those that are not closed

    def observe(self, link: EngineLink, bundle: str, is_good: bool, now: float) -> None:
        """Learn how a call ended."""
        breaker = self._breakers.get((link, bundle))
        if breaker is None:
            if is_good:
                return
            breaker = self._breakers[link, bundle] = Breaker()
        breaker.observe(is_good, now)
        if breaker.state is not State.CLOSED:
            self.ejected[link, bundle] = breaker

    def healthy(self, ready: Sequence[EngineLink], bundle: str) -> Sequence[EngineLink]:
        """Leave out the ejected workers, at most half of those that are ready, those ejected first."""
        out = sorted(
            (self.ejected[link, bundle].opened, i) for i, link in enumerate(ready) if (link, bundle) in self.ejected
        )
        left_out = {i for _, i in out[: len(ready) // 2]}
        return [link for i, link in enumerate(ready) if i not in left_out]

    def probe(
        self,
        bundle: str,
        given: Given,
        remaining_us: int,
        is_right: Callable[[Result], bool],
    ) -> None:
        """Send a copy of a request to each ejected worker whose time has come."""
        now = time.monotonic()
        for (link, ejected), breaker in list(self.ejected.items()):
            if ejected == bundle and bundle in link.ready and breaker.wants_probe(now):
                breaker.probing()
                self._probe(link, bundle, breaker, given, remaining_us, is_right)

    def _probe(
        self,
        link: EngineLink,
        bundle: str,
        breaker: Breaker,
        given: Given,
        remaining_us: int,
        is_right: Callable[[Result], bool],
    ) -> None:
        try:
            number, future = link.submit(bundle, given, remaining_us, engine_pb2.PRIORITY_LIVE)
        except WorkerAway:
            breaker.probed(False, time.monotonic())
            return
        timer = asyncio.get_running_loop().call_later(remaining_us / 1e6, link.cancel, number)

        def done(answer: "asyncio.Future[Result]") -> None:
            timer.cancel()
            is_good = not answer.cancelled() and answer.exception() is None and is_right(answer.result())
            breaker.probed(is_good, time.monotonic())
            if is_good:
                self.ejected.pop((link, bundle), None)
                link.load_of_late = PeakEwma()  # what it cost while it failed says nothing any more

        future.add_done_callback(done)

    def keep_only(self, bundles: set[str]) -> None:
        """Forget bundles that no plan needs any more."""
        for table in (self._breakers, self.ejected):
            for key in [key for key in table if key[1] not in bundles]:
                del table[key]

    def states(self) -> dict[tuple[str, str], State]:
        """Return each breaker's state, by worker and bundle."""
        return {(link.name, bundle): breaker.state for (link, bundle), breaker in list(self._breakers.items())}
