"""Who may go to an engine now, who waits, who is sent away: the three service classes.

``hard`` tasks never wait here. ``soft`` ones wait in a short line, newest first, whose oldest are sent away once
the line stands. ``batch`` ones get a share of all engines' places, together, and never wait.
"""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass

from gateway.domain.codel import CoDel
from gateway.domain.limit import FixedLimit, GradientLimit


class Full(Exception):
    """There is no room, or there was none in time."""


@dataclass(slots=True)
class _Waiting:
    place: asyncio.Future[None]
    since: float


class Gate:
    """The way to one engine. Every ``enter`` that returns is followed by one ``leave``."""

    def __init__(
        self, limit: FixedLimit | GradientLimit, *, share: FixedLimit | None = None, max_waiting: int = 0
    ) -> None:
        self.limit = limit
        self._share = share
        self._max_waiting = max_waiting
        self._line: deque[_Waiting] = deque()  # oldest first
        self._codel = CoDel()

    @property
    def waiting(self) -> int:
        """How many calls stand in line."""
        return len(self._line)

    async def enter(self, until: float) -> None:
        """Take a place, waiting for one until then at most; raises Full."""
        if not self._line and self._take():
            return
        if self._max_waiting == 0:
            raise Full
        if self._line:
            self._shorten(time.monotonic())
        if len(self._line) >= self._max_waiting:
            self._send_away(self._line[0])
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), time.monotonic())
        self._line.append(waiting)
        timer = loop.call_later(max(0.0, until - waiting.since), self._send_away, waiting)
        try:
            await waiting.place
        except asyncio.CancelledError:
            if waiting.place.done() and not waiting.place.cancelled() and waiting.place.exception() is None:
                self.leave(None)  # the place was given, and nobody is there to take it
            else:
                with contextlib.suppress(ValueError):
                    self._line.remove(waiting)
            raise
        finally:
            timer.cancel()

    def leave(self, taken_s: float | None) -> None:
        """Give the place back. ``taken_s`` is the engine's time; None when the call was not seen to its end."""
        now = time.monotonic()
        if taken_s is not None:
            self.limit.observe(taken_s, now)
        self.limit.in_flight -= 1
        if self._share is not None:
            self._share.in_flight -= 1
        if self._line:
            self._shorten(now)
        # The newest has the most time left; the oldest is the likeliest to be gone.
        while self._line:
            if self._line[-1].place.done():  # cancelled in this turn of the loop: it has not left the line yet
                self._line.pop()
            elif self._take():
                self._line.pop().place.set_result(None)
            else:
                return

    def _take(self) -> bool:
        share = self._share
        if not self.limit.has_room() or (share is not None and not share.has_room()):
            return False
        self.limit.in_flight += 1
        if share is not None:
            share.in_flight += 1
        return True

    def _shorten(self, now: float) -> None:
        most_s = self._codel.most_wait_s(now - self._line[0].since, now)
        while most_s is not None and self._line and now - self._line[0].since > most_s:
            self._send_away(self._line[0])

    def _send_away(self, waiting: _Waiting) -> None:
        with contextlib.suppress(ValueError):  # it left by itself
            self._line.remove(waiting)
        if not waiting.place.done():
            waiting.place.set_exception(Full())
