"""Load that does not wait for answers: ``python -m perf.openloop HOST:PORT --rate 2000 --seconds 10``.

Calls start at fixed moments whatever became of earlier ones, and each one's latency counts from the
moment it was due, not from when it was really sent: a server that stalls is charged for everybody
who had to wait (no coordinated omission). ``--streams N`` instead of ``--rate`` keeps N calls in
flight, to find the most a server can do. Prints one line of JSON.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import select
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from perf.http2 import Call, Connection
from perf.request import METHOD, is_fallback, request_bytes

OK, FALLBACK, LATE = "ok", "fallback", "no answer in time"
SPIN_S = 60e-6  # the kernel wakes a sleeper about this late, so the last stretch is spent awake
PR_SET_TIMERSLACK = 29
_STATUS = {str(code.value[0]): code.name for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. One of ``rate`` (calls a second, constant arrival) and ``streams`` (kept in flight) is set."""

    address: str
    seconds: float
    warmup_s: float = 1.0
    rate: float | None = None
    streams: int | None = None
    connections: int = 4
    budget_s: float | None = None  # sent as grpc-timeout, and how long anybody waits
    calls: int | None = None  # with ``streams``: end after so many instead

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.streams is None):
            raise ValueError(f"rate is {self.rate} and streams is {self.streams}, expected exactly one of them")


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the calls that were due after the warm-up. Times in ms, from the moment a call was due.

    Percentiles count every call. One that nobody answered counts as long as it was waited for, so
    that losing calls never improves a figure.

    Attributes:
        errors: Calls by status, without the OK ones; a fallback is an answer and not among them.
        answered_rps: Answers a second that were no fallbacks.
        shed_p99_ms: 99th percentile of the fallbacks and refusals alone.
        lag_p99_ms: How late the generator itself sent; figures near it say nothing of the server.
    """

    calls: int
    ok: int
    fallbacks: int
    errors: dict[str, int]
    answered_rps: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    shed_p99_ms: float | None
    lag_p99_ms: float | None


def percentile(values: Sequence[float], q: float) -> float | None:
    """Return the smallest value that at least ``q`` percent do not exceed; None of nothing."""
    return round(float(np.percentile(values, q, method="inverted_cdf")), 3) if len(values) else None


class Record:
    """When each call was due, sent and over, and how it ended. Times are seconds on one clock."""

    def __init__(self) -> None:
        self.due = array("d")
        self.sent = array("d")
        self.over = array("d")
        self.outcome: list[str] = []

    def begin(self, due: float, sent: float) -> int:
        """Add a call and return its number."""
        self.due.append(due)
        self.sent.append(sent)
        self.over.append(float("nan"))
        self.outcome.append("")
        return len(self.outcome) - 1

    def end(self, number: int, at: float, outcome: str) -> None:
        """Say how a call ended."""
        self.over[number] = at
        self.outcome[number] = outcome

    def summary(self, since: float, until: float) -> Summary:
        """Summarise the calls that were due in [since, until)."""
        due = np.array(self.due)
        over, sent = np.array(self.over), np.array(self.sent)
        chosen = (due >= since) & (due < until)
        outcome = np.array(self.outcome, dtype=object)[chosen]
        taken = 1000 * (np.where(np.isnan(over), until, over) - due)[chosen]
        counts = Counter(outcome)
        is_shed = (outcome == FALLBACK) | (outcome == "RESOURCE_EXHAUSTED") | (outcome == "UNAVAILABLE")
        answered = np.sum((np.array(self.outcome, dtype=object) == OK) & (over >= since) & (over < until))
        return Summary(
            calls=len(outcome),
            ok=counts[OK],
            fallbacks=counts[FALLBACK],
            errors={name or "open": count for name, count in sorted(counts.items()) if name not in (OK, FALLBACK)},
            answered_rps=round(float(answered) / (until - since), 1),
            p50_ms=percentile(taken, 50),
            p90_ms=percentile(taken, 90),
            p99_ms=percentile(taken, 99),
            p999_ms=percentile(taken, 99.9),
            max_ms=percentile(taken, 100),
            shed_p99_ms=percentile(taken[is_shed], 99),
            lag_p99_ms=percentile(1000 * (sent - due)[chosen], 99),
        )


class Generator:
    """Drives one load over its connections, in one thread that never sleeps past the next call."""

    def __init__(self, load: Load, message: bytes, clock: Callable[[], float] = time.perf_counter) -> None:
        host, _, port = load.address.rpartition(":")
        call = Call(load.address, METHOD, message, load.budget_s)
        self._load = load
        self._clock = clock
        self.record = Record()
        self._where: dict[int, Connection] = {}
        self._in_line: deque[tuple[float, int]] = deque()  # (last moment, number), earliest first
        self._started = self._finished = 0
        self._now = 0.0
        self._is_over = False
        self._connections = [Connection((host, int(port)), call, self._done) for _ in range(load.connections)]

    def run(self) -> Summary:
        """Send everything, wait for the answers, summarise."""
        load, clock = self._load, self._clock
        begin = clock() + 0.05  # the connections' first frames go first
        since, until = begin + load.warmup_s, begin + load.warmup_s + load.seconds
        gap = 1.0 / load.rate if load.rate else 0.0
        grace = until + (load.budget_s or 5.0)
        next_due = begin
        while True:
            self._now = now = clock()
            if load.rate:
                while next_due <= now and next_due < until:
                    self._start(next_due, now)
                    next_due = begin + self._started * gap
            elif now >= begin and now < until and not self._started:
                for _ in range(load.streams or 0):
                    self._start(now, now)
            self._give_up(now)
            for connection in self._connections:
                connection.flush()
            is_sent = now >= until or self._is_done()
            self._is_over = self._is_over or is_sent
            if is_sent and (not self._where or now >= grace):
                break
            self._wait(next_due - clock() if load.rate and next_due < until else 0.002)
        for connection in self._connections:
            connection.close()
        return self.record.summary(since, min(until, self._now))

    def _is_done(self) -> bool:
        return self._load.calls is not None and self._finished >= self._load.calls

    def _start(self, due: float, now: float) -> None:
        number = self.record.begin(due, now)
        connection = self._connections[self._started % len(self._connections)]
        self._started += 1
        self._where[number] = connection
        if self._load.budget_s is not None:
            self._in_line.append((due + self._load.budget_s, number))
        connection.send(number)

    def _done(self, number: int, status: str, body: bytes) -> None:
        outcome = _STATUS.get(status, status)
        if outcome == "OK":
            outcome = FALLBACK if is_fallback(body) else OK
        del self._where[number]
        self._finished += 1
        self.record.end(number, self._now, outcome)
        # A refused call is not repeated at once: the loop would spin on its own refusals.
        if self._load.streams and not self._is_over and not self._is_done():
            self._start(self._now, self._now)

    def _give_up(self, now: float) -> None:
        while self._in_line and (self._in_line[0][0] <= now or self._in_line[0][1] not in self._where):
            last, number = self._in_line.popleft()
            connection = self._where.pop(number, None)
            if connection is not None:
                connection.abandon(number)
                self._finished += 1
                self.record.end(number, last, LATE)

    def _wait(self, longest: float) -> None:
        """Read whatever arrives until the next call is due."""
        readers = [c for c in self._connections if c.is_open]
        writers = [c for c in readers if c.wants_to_write]
        # select counts in microseconds, where epoll and poll round up to a millisecond.
        ready, _, _ = select.select(readers, writers, [], max(0.0, min(longest - SPIN_S, 0.002)))
        self._now = self._clock()
        for connection in ready:
            connection.receive()


def run(load: Load, message: bytes | None = None) -> Summary:
    """Drive one load to its end."""
    return Generator(load, message if message is not None else request_bytes()).run()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.openloop", description=__doc__)
    parser.add_argument("address", help="HOST:PORT that answers ModelInfer")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--rate", type=float, help="calls a second, constant arrival")
    kind.add_argument("--streams", type=int, help="calls kept in flight instead")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup", type=float, default=1.0, dest="warmup_s", help="seconds sent and not counted")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--budget", type=float, dest="budget_s", help="seconds a caller waits, sent as grpc-timeout")
    parser.add_argument("--calls", type=int, help="with --streams: end after so many")
    parser.add_argument("--core", type=int, help="run on this core only")
    chosen: dict[str, Any] = vars(parser.parse_args(arguments))
    core = chosen.pop("core")
    if core is not None:
        os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.disable()  # a collection in the middle would be charged to the server
    print(json.dumps(asdict(run(Load(**chosen)))))


if __name__ == "__main__":
    main()
