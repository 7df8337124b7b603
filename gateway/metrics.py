"""Every metric, named once. Labels are closed sets: specialists, arms and reasons, never a caller's value."""

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.domain.assignment import Arm

if TYPE_CHECKING:
    from gateway.engines.pool import Pool
    from gateway.serving.cache import DecisionCache
    from gateway.serving.counters import Counters
    from gateway.serving.hedge import Hedger
    from gateway.serving.lanes import Lanes
    from gateway.serving.statistics import SpecialistStatistics

LATENCY_BOUNDS_US = (100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10000, 15000, 20000, 30000, 50000, 75000, 100000)

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(slots=True)
class _ArmCounts:
    """Answers by how long they took, in all, and in time."""

    answers: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_US) + 1))
    taken_us: int = 0
    in_time: int = 0


class _Answers(Collector):
    def __init__(self, by_arm: Mapping[tuple[str, Arm], _ArmCounts]) -> None:
        self._by_arm = by_arm

    def collect(self) -> Iterator[Metric]:
        names = ["specialist", "arm"]
        latency = HistogramMetricFamily("interlock_decide_seconds", "Time from arrival to answer", labels=names)
        in_time = CounterMetricFamily("interlock_in_time", "Answers by an engine before the deadline", labels=names)
        for (specialist, arm), counted in list(self._by_arm.items()):
            labels = [specialist, arm.name.lower()]
            totals = list(accumulate(counted.answers))
            bounds = [*(str(bound / 1e6) for bound in LATENCY_BOUNDS_US), "+Inf"]
            latency.add_metric(labels, list(zip(bounds, totals, strict=True)), counted.taken_us / 1e6)
            in_time.add_metric(labels, counted.in_time)
        yield latency
        yield in_time


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        arms = ("specialist", "arm")
        # Written at the scrape: the library's own histogram costs more than all the rest of counting an answer.
        self._by_arm: dict[tuple[str, Arm], _ArmCounts] = {}
        self.registry.register(_Answers(self._by_arm))
        self._fallback_children: dict[tuple[str, Arm, str], Counter] = {}
        self.fallbacks = Counter(
            "interlock_fallbacks", "Answers given by the fallback", (*arms, "reason"), registry=self.registry
        )
        self.errors = Counter("interlock_errors", "Calls that ended in an error", arms, registry=self.registry)
        self.drops = Counter(
            "interlock_drops", "Shadow and capture records dropped", ("cause",), registry=self.registry
        )
        self.mutation_decisions = Counter(
            "interlock_mutation_decisions",
            "Decisions asked for by auctions",
            ("specialist", "result"),
            registry=self.registry,
        )
        self.refusals = Counter("interlock_plan_refusals", "Plans refused", ("reason",), registry=self.registry)
        self.access_refusals = Counter(
            "interlock_access_refusals", "Calls refused for who made them", ("reason",), registry=self.registry
        )
        self.rollbacks = Counter(
            "interlock_local_rollbacks",
            "Orders to roll back here, and how they ended",
            ("outcome",),
            registry=self.registry,
        )
        self.generation = Gauge("interlock_plan_generation", "Plan in force", registry=self.registry)
        self.tasks = Gauge("interlock_tasks", "Tasks of the event loop", registry=self.registry)
        self.in_flight = Gauge("interlock_in_flight", "Decisions in flight", registry=self.registry)

    def prepare(self, specialist: str, arms: Iterable[Arm], reasons: Iterable[str]) -> None:
        """Make what a specialist's calls will count in, when a plan brings it; finding it later costs more."""
        reasons = tuple(reasons)
        for arm in arms:
            self._by_arm.setdefault((specialist, arm), _ArmCounts())
            for reason in reasons:
                child = self.fallbacks.labels(specialist, arm.name.lower(), reason)
                self._fallback_children[specialist, arm, reason] = child

    def access_refused(self, reason: str) -> None:
        """Count a call that was refused for who made it."""
        self.access_refusals.labels(reason).inc()

    def answered(self, specialist: str, arm: Arm, taken_us: int, place: int, in_time: bool) -> None:
        """Note one answer; ``place`` is its time's among LATENCY_BOUNDS_US."""
        counted = self._by_arm[specialist, arm]
        counted.answers[place] += 1
        counted.taken_us += taken_us
        counted.in_time += in_time

    def fell_back(self, specialist: str, arm: Arm, reason: str) -> None:
        """Note one answer given by the fallback."""
        self._fallback_children[specialist, arm, reason].inc()

    def failed(self, specialist: str, arm: Arm, taken_us: int, place: int) -> None:
        """Note one call that ended in an error by its route's choice."""
        self.answered(specialist, arm, taken_us, place, in_time=False)
        self.errors.labels(specialist, arm.name.lower()).inc()

    def mutation_decided(self, specialist: str, result: str) -> None:
        """Note what became of one decision that an auction asked for."""
        self.mutation_decisions.labels(specialist, result).inc()

    def read_at_scrape(self, sources: "Sources") -> None:
        """Add what is counted anyway, so that it costs the request path nothing."""
        self.registry.register(_AtScrape(sources))

    def count_calls(self, open_calls: Callable[[], int], refused: Callable[[], int]) -> None:
        """Add what a front counts; both are asked at a scrape, on its thread."""
        self.registry.register(_Calls(open_calls, refused))

    def serve(self, port: int, address: str) -> None:
        """Answer scrapes."""
        start_http_server(port, addr=address, registry=self.registry)


@dataclass(frozen=True, slots=True)
class _Calls(Collector):
    open_calls: Callable[[], int]
    refused: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("interlock_open_calls", "Calls of any kind that have not ended", self.open_calls())
        yield CounterMetricFamily(
            "interlock_refused_calls", "Calls refused unread because max_calls were open", self.refused()
        )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where counts and states are kept for other reasons."""

    statistics: Callable[[], "Mapping[str, SpecialistStatistics]"]
    pool: "Pool"
    lanes: "Lanes"
    cache: "DecisionCache"
    hedger: "Hedger | None"
    counters: "Counters"


class _AtScrape(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Read everything at one moment."""
        yield from self._specialists()
        yield from self._workers()
        yield from self._engines()
        yield from self._cache()
        yield from self._shadows()

    def _specialists(self) -> Iterator[Metric]:
        by_name = ["specialist"]
        queue = SummaryMetricFamily("interlock_queue_seconds", "Time in a worker's queue", labels=by_name)
        batch = HistogramMetricFamily("interlock_batch_rows", "Rows in the batch of each answer", labels=by_name)
        for name, found in self._sources.statistics().items():
            queue.add_metric([name], found.queue.count, found.queue.total_us / 1e6)
            sizes = [(size, spent.count) for size, spent in list(found.engine.items())]
            buckets = [(str(float(bound)), sum(n for size, n in sizes if size <= bound)) for bound in BATCH_BOUNDS]
            buckets.append(("+Inf", sum(n for _, n in sizes)))
            batch.add_metric([name], buckets, sum(size * n for size, n in sizes))
        yield queue
        yield batch

    def _workers(self) -> Iterator[Metric]:
        worker = ["worker"]
        waiting = GaugeMetricFamily("interlock_worker_in_flight", "Jobs a worker has not answered", labels=worker)
        expected = GaugeMetricFamily(
            "interlock_worker_expected_seconds", "Time the next job there is expected to take", labels=worker
        )
        connected = GaugeMetricFamily("interlock_worker_connected", "Is there a connection", labels=worker)
        held = GaugeMetricFamily(
            "interlock_worker_bundles",
            "Bundles an engine has ready: a plan's, or only preloaded",
            labels=[*worker, "held"],
        )
        for link in self._sources.pool.links:
            held.add_metric([link.name, "preload"], len(link.ready & link.preloads))
            held.add_metric([link.name, "plan"], len(link.ready - link.preloads))
            waiting.add_metric([link.name], link.in_flight)
            expected.add_metric([link.name], link.load_of_late.expected_s(link.in_flight, time.monotonic()))
            connected.add_metric([link.name], link.connected.is_set())
        yield waiting
        yield expected
        yield connected
        yield held
        pool = self._sources.pool
        if pool.breakers is not None:
            breaker = GaugeMetricFamily(
                "interlock_breaker_state",
                "0 closed, 1 open, 2 half open; absent: never failed",
                labels=["worker", "bundle"],
            )
            for (socket, bundle), state in pool.breakers.states().items():
                breaker.add_metric([socket, bundle], state.value)
            yield breaker
        if self._sources.hedger is not None:
            count = self._sources.hedger.count
            hedges = CounterMetricFamily("interlock_hedges", "Second workers asked", labels=["outcome"])
            for outcome, n in (("sent", count.sent), ("won", count.won), ("denied", count.denied)):
                hedges.add_metric([outcome], n)
            yield hedges

    def _engines(self) -> Iterator[Metric]:
        by_bundle = ["bundle"]
        limit = GaugeMetricFamily("interlock_engine_limit", "Calls an engine may have at once", labels=by_bundle)
        held = GaugeMetricFamily("interlock_engine_in_flight", "Calls an engine has, where limited", labels=by_bundle)
        line = GaugeMetricFamily("interlock_engine_waiting", "Calls that wait for a place", labels=by_bundle)
        finish = GaugeMetricFamily(
            "interlock_engine_finish_seconds",
            "Learned time from submit to answer",
            labels=["bundle", "size", "quantile"],
        )
        for bundle, lane in self._sources.lanes.all().items():
            if lane.gate is not None:
                limit.add_metric([bundle], lane.gate.limit.limit)
                held.add_metric([bundle], lane.gate.limit.in_flight)
                line.add_metric([bundle], lane.gate.waiting)
            for most_bytes, learned in lane.times.known():
                for share in (0.5, 0.9, 0.95):
                    labels = [bundle, str(most_bytes), str(share)]
                    finish.add_metric(labels, learned.quantile_us(share) / 1e6)
        yield limit
        yield held
        yield line
        yield finish

    def _cache(self) -> Iterator[Metric]:
        cache = self._sources.cache
        lookups = CounterMetricFamily(
            "interlock_cache_lookups", "Decisions looked for in the cache", labels=["specialist", "outcome"]
        )
        for name, count in cache.counts().items():
            for outcome, n in (("hit", count.hits), ("shared", count.shared), ("miss", count.misses)):
                lookups.add_metric([name, outcome], n)
        yield lookups
        yield GaugeMetricFamily("interlock_cache_entries", "Decisions kept", value=len(cache))

    def _shadows(self) -> Iterator[Metric]:
        """Sum over the specialist's rollouts that are still counted."""
        ended = CounterMetricFamily(
            "interlock_shadow_copies",
            "Requests drawn for a shadow: offered, of them sent, paired, disagreed, late; dropped by cause",
            labels=["specialist", "outcome"],
        )
        totals: Counts[tuple[str, str]] = Counts()
        for name, count in self._sources.counters.shadows():
            told = ("offered", count.offered), ("sent", count.sent), ("paired", count.paired)
            for outcome, n in (*told, ("disagreed", count.disagreed), ("late", count.late), *count.drops.items()):
                totals[name, outcome] += n
        for labels, n in totals.items():
            ended.add_metric(labels, n)
        yield ended
