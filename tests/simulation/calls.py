"""Calls through the real request path, played from a seed on a clock of paper: engines that hang, break and vanish.

The event loop's time is virtual: it jumps to the next timer, so a run has no waiting in it and repeats to the
microsecond. What a call costs the processor is not in it.

    python -m tests.simulation.calls --seeds 3000
    python -m tests.simulation.calls --seed 1234
"""

import argparse
import asyncio
import logging
import random
import selectors
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from gateway.domain.assignment import Arm
from gateway.domain.balance import PeakEwma
from gateway.domain.decision import Decision, Question
from gateway.engines.pool import Pool
from gateway.errors import GatewayError
from gateway.metrics import Metrics
from gateway.serving.asking import Asking
from gateway.serving.cache import DecisionCache
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import REASONS, Counters
from gateway.serving.current_plan import Route, Routes
from gateway.serving.dispatch import Dispatcher
from gateway.serving.lanes import Lanes, LaneSettings
from gateway.serving.ports import WorkerAway
from gateway.serving.recording import Recording
from gateway.serving.sampling import ExtraRates, Sampler
from gateway.serving.shadow import ShadowLane
from protos import capture_pb2, decide_pb2, engine_pb2
from protos.contract.given import Given
from protos.contract.plan import Split, TrafficPlan
from protos.contract.segment import read_segment
from protos.contract.task import Field
from tests.tasks import TASK

CALLS = 60
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TICK_S = 0.0015  # a deadline rings within a tick of its time
SECRET = "nobody-declared-this"  # noqa: S105 - what must not be recorded
FIELDS = (Field("title", "text", True, True), Field("note", "text", False, False))
KINDS = ("hard", "soft", "batch")
METRICS = Metrics()
METRICS.prepare("brand", Arm, REASONS.values())
RATES = ExtraRates(200, 500, 500, 5_000)


class InvariantBroken(AssertionError):
    """What must never happen did; the message names the seed that shows it."""


class PaperSelector(selectors.SelectSelector):
    """Waits for nothing: time jumps instead, and by ``turn_s`` in every turn of the loop."""

    def __init__(self, turn_s: float) -> None:
        super().__init__()
        self.now = 1_000.0
        self._turn_s = turn_s

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise InvariantBroken("3: nothing is left to happen and somebody still waits")
        self.now += max(0.0, timeout) + self._turn_s
        return super().select(0)


@contextmanager
def on_paper(turn_s: float = 0.0) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop, and everybody's monotonic clock, on virtual time."""
    selector = PaperSelector(turn_s)
    loop = asyncio.SelectorEventLoop(selector)
    loop._clock_resolution = 1e-9  # type: ignore[attr-defined]
    real = time.monotonic
    loop.time = time.monotonic = lambda: selector.now  # type: ignore[method-assign, assignment]
    try:
        yield loop
    finally:
        time.monotonic = real
        loop.close()


class Engine:
    """An engine whose moods a seed and the input decide, not the order in which it is asked."""

    load_of_late: PeakEwma

    def __init__(self, seed: int, bundle: str, *, shadow_hangs: bool) -> None:
        self.load_of_late = PeakEwma()
        self.ready = {bundle}
        self._seed = seed
        self._shadow_hangs = shadow_hangs
        self._number = 0
        self.open: dict[int, asyncio.Future[Any]] = {}

    @property
    def in_flight(self) -> int:
        return len(self.open)

    def capabilities(self, bundle: str) -> None: ...

    def submit(self, bundle: str, given: Given, remaining_us: int, priority: int) -> tuple[int, Any]:
        draw = random.Random(f"{self._seed} {bundle} {given.raw!r}")
        mood = draw.choices(
            ("well", "slow", "hangs", "broken", "garbage", "away", "dies", "full"), (60, 8, 8, 5, 5, 5, 5, 4)
        )[0]
        after = draw.uniform(0.0005, 0.02) if mood != "slow" else draw.uniform(0.1, 0.4)
        if priority == engine_pb2.PRIORITY_SHADOW and self._shadow_hangs:
            mood = "hangs"
        if mood == "away":
            raise WorkerAway(bundle)
        loop = asyncio.get_running_loop()
        self._number += 1
        number, future = self._number, loop.create_future()
        self.open[number] = future
        future.add_done_callback(lambda _: self.open.pop(number, None))
        if mood != "hangs":
            loop.call_later(after, self._end, future, bundle, mood, draw.random())
        return number, future

    def _end(self, future: asyncio.Future[Any], bundle: str, mood: str, score: float) -> None:
        if future.done():
            return
        if mood == "dies":
            future.set_exception(WorkerAway(bundle))
            return
        status = {"broken": engine_pb2.RESULT_STATUS_ENGINE_ERROR, "full": engine_pb2.RESULT_STATUS_OVERLOADED}
        future.set_result(
            engine_pb2.Result(
                status=status.get(mood, engine_pb2.RESULT_STATUS_OK),
                probabilities=[1 - score, score] if mood != "garbage" else [2.0, -1.0],
                score=score,
                label=int(score > 0.5),
                decision=int(score > 0.2),
                bundle_digest=bundle,
                batch_size=1,
                engine_us=1_000,
            )
        )

    def cancel(self, number: int) -> None:
        future = self.open.get(number)
        if future is not None:
            future.cancel()


@dataclass
class Ended:
    """How one call ended."""

    number: int
    began: float
    until: float
    at: float
    answer: Decision | None = None
    error: str = ""


@dataclass
class Run:
    """What a run showed."""

    ended: list[Ended] = field(default_factory=list)
    left: int = 0  # callers that went away
    pairs: int = 0


class Standing:
    """A plan that a test swaps."""

    def __init__(self) -> None:
        self.routes: Routes | None = None


def play(seed: int, root: Path, *, aside_fails: bool = False) -> Run:
    """Play one seed; ``aside_fails`` has every shadow copy hang and every record find no room.

    Raises:
        InvariantBroken: A call ended twice, late or never, or something taken was not given back.
    """
    draw = random.Random(seed)
    task = replace(
        TASK, fields=FIELDS, template="{title}", service_class=draw.choice(KINDS), cache_ttl_ms=draw.choice((0, 0, 50)),
        on_refusal=draw.choice(("fallback", "fallback", "error")),
    )  # fmt: skip
    lanes = Lanes(LaneSettings(engine_max_in_flight=draw.choice((0, 2, 8)), soft_queue=draw.choice((1, 8))), 16)
    engines = [Engine(seed, bundle, shadow_hangs=aside_fails) for bundle in (OLD, NEW)]
    counters, cache, run = Counters(), DecisionCache(100, lambda: time.monotonic()), Run()
    capture = CaptureLane(
        root, "run", "g", METRICS, max_records=0 if aside_fails else 10_000, quota_bytes=10**8, segment_bytes=10**7,
        flush_s=60, segment_s=60, seal=None,
    )  # fmt: skip
    with on_paper() as loop:
        pool = Pool(engines, lambda bundle: None)  # type: ignore[arg-type, return-value]
        shadow = ShadowLane(pool, capture, counters, max_in_flight=8)
        asking = Asking(pool, shadow, max_in_flight=16)
        plan = Standing()
        recording = Recording(capture, Sampler(RATES), counters, METRICS)
        dispatcher = Dispatcher(plan, pool, asking, recording, counters)  # type: ignore[arg-type]

        def swap(generation: int, canary_bp: int) -> None:
            split = Split("brand", OLD, NEW, None, canary_bp, 5_000, 5_000, 500, "r-1")
            route = Route(split, task, generation, lanes.of(split, task), cache.for_task("brand", task.cache_ttl_ms))
            plan.routes = Routes(TrafficPlan("test", generation, 0, (split,), ()), {"brand": route})

        async def one(number: int) -> None:
            fields = {"title": decide_pb2.Value(text=f"page {draw_of(number).randrange(20)}")}
            fields["note"] = decide_pb2.Value(text=SECRET)
            given = Given.of(decide_pb2.Input(fields=fields))
            began = loop.time()
            until = began + draw_of(number).choice((0.01, 0.05, 0.15, 0.25))
            arrived = began - draw_of(number + CALLS).choice((0.0, 0.0, 0.03, 1.0))
            ended = Ended(number, began, max(began, min(until, arrived + task.deadline_us / 1e6)), 0.0)
            question = Question("brand", given, f"u-{number}", f"d-{number}")
            try:
                ended.answer = await dispatcher.decide(question, until, arrived)
            except GatewayError as error:
                ended.error = type(error).__name__
            ended.at = loop.time()
            run.ended.append(ended)

        def draw_of(number: int) -> random.Random:
            return random.Random(seed * 1_000_003 + number)

        async def story() -> None:
            swap(1, 2_000)
            calls = []
            for number in range(CALLS):
                await asyncio.sleep(draw.expovariate(300))
                calls.append(asyncio.create_task(one(number)))
                if draw.random() < 0.05:
                    swap(number + 2, draw.choice((0, 1_000, 4_000)))
                if draw.random() < 0.08:
                    caller = draw.choice(calls)
                    run.left += caller.cancel()
            for failed in await asyncio.gather(*calls, return_exceptions=True):
                assert failed is None or isinstance(failed, asyncio.CancelledError), f"3: a call raised {failed!r}"
            await asyncio.sleep(6 * task.deadline_us / 1e6)  # longer than a shadow's patience
            check_released(asking, shadow, lanes, engines)

        broken_calls: list[str] = []
        loop.set_exception_handler(lambda _, told: broken_calls.append(str(told.get("exception") or told["message"])))
        try:
            loop.run_until_complete(story())
            assert not broken_calls, f"3: {broken_calls[0]}"
            capture.close()
            check_calls(run, task.on_refusal)
            run.pairs = check_records(root)
        except AssertionError as broken:
            again = f"python -m tests.simulation.calls --seed {seed}"
            raise InvariantBroken(f"seed {seed}: {broken}\nreplay: {again}") from broken
        finally:
            capture.close()
    return run


def check_calls(run: Run, on_refusal: str) -> None:
    """Every call that nobody left ended once, in time, with an answer or a reason."""
    numbers = [ended.number for ended in run.ended]
    assert len(set(numbers)) == len(numbers), "3: a call ended twice"
    assert len(numbers) + run.left >= CALLS, f"3: {CALLS - run.left - len(numbers)} calls never ended"
    for ended in run.ended:
        assert ended.at <= ended.until + TICK_S, f"3: call {ended.number} ended {ended.at - ended.until:.4f} s late"
        assert (ended.answer is None) == bool(ended.error), f"3: call {ended.number} has two ends or none"
        if ended.answer is not None and ended.answer.fallback:
            is_right = ended.answer.decision == TASK.fallback_decision
            assert is_right, f"3: call {ended.number} fell back to {ended.answer.decision}"
            holdback = ended.answer.fallback == decide_pb2.FALLBACK_REASON_HOLDBACK
            assert on_refusal == "fallback" or holdback, f"3: call {ended.number} wanted an error"
        elif ended.answer is not None:
            assert abs(sum(ended.answer.probabilities) - 1) < 1e-6, f"3: call {ended.number} got garbage"


def check_released(asking: Asking, shadow: ShadowLane, lanes: Lanes, engines: list[Engine]) -> None:
    """Whatever was taken was given back."""
    held = {
        "calls": asking.in_flight,
        "shadow copies": shadow.in_flight,
        "engine jobs": sum(engine.in_flight for engine in engines),
        "deadlines": len(asking.deadlines),
    }
    for bundle, lane in lanes.all().items():
        if lane.gate is not None:
            held[f"places at {bundle[7:10]}"] = lane.gate.limit.in_flight
            held[f"line at {bundle[7:10]}"] = lane.gate.waiting
    assert not any(held.values()), f"4: not given back: { {what: n for what, n in held.items() if n} }"


def check_records(root: Path) -> int:
    """Nothing undeclared is on the disk; returns how many pairs are."""
    pairs = 0
    for path in sorted(root.glob("*.seg")):
        assert SECRET.encode() not in path.read_bytes(), f"7: {path.name} holds a field that nobody declared"
        for record, _ in read_segment(path, 0, None):
            assert isinstance(record, capture_pb2.CaptureRecord)
            pairs += record.HasField("shadow_pair")
    return pairs


def play_twice(seed: int) -> Run:
    """Play a seed as it is and with everything aside failing: callers must not be able to tell (invariant 9)."""
    found = []
    for aside_fails in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found.append(play(seed, Path(folder), aside_fails=aside_fails))
    well, failing = ({ended.number: ended for ended in run.ended} for run in found)
    differ = [number for number in well.keys() | failing.keys() if well.get(number) != failing.get(number)]
    if differ:
        number = min(differ)
        raise InvariantBroken(
            f"seed {seed}: 9: shadow and capture failing changed {len(differ)} calls, such as "
            f"{well.get(number)} into {failing.get(number)}\nreplay: python -m tests.simulation.calls --seed {seed}"
        )
    return found[0]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m tests.simulation.calls")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if chosen.seed is not None:
        for ended in play_twice(chosen.seed).ended:
            print(ended)
        return
    began, answers, fallbacks, errors, left, pairs = time.perf_counter(), 0, 0, 0, 0, 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        run = play_twice(seed)
        answers += sum(e.answer is not None and not e.answer.fallback for e in run.ended)
        fallbacks += sum(e.answer is not None and bool(e.answer.fallback) for e in run.ended)
        errors += sum(bool(e.error) for e in run.ended)
        left, pairs = left + run.left, pairs + run.pairs
    took = time.perf_counter() - began
    print(
        f"{chosen.seeds} seeds of {CALLS} calls, each twice, in {took:.0f} s ({chosen.seeds / took:.1f} a second): "
        f"{answers} answers, {fallbacks} fallbacks, {errors} errors, {left} callers left, {pairs} pairs"
    )


if __name__ == "__main__":
    sys.exit(main())
