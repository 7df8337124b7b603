"""Every metric, named once. Labels are closed sets: specialists, arms and reasons, never a caller's value."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

LATENCY_BOUNDS_US = (100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10000, 15000, 20000, 30000, 50000, 75000, 100000)


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        arms = ("specialist", "arm")
        self.latency = Histogram(
            "interlock_decide_seconds",
            "Time from arrival to answer",
            arms,
            buckets=[bound / 1e6 for bound in LATENCY_BOUNDS_US],
            registry=self.registry,
        )
        self._latency: dict[tuple[str, str], Histogram] = {}
        self.fallbacks = Counter(
            "interlock_fallbacks", "Answers given by the fallback", (*arms, "reason"), registry=self.registry
        )
        self.errors = Counter("interlock_errors", "Calls that ended in an error", arms, registry=self.registry)
        self.drops = Counter(
            "interlock_drops", "Shadow and capture records dropped", ("cause",), registry=self.registry
        )
        self.shadow_pairs = Counter(
            "interlock_shadow_pairs", "Requests answered by both bundles", ("agreed",), registry=self.registry
        )
        self.refusals = Counter("interlock_plan_refusals", "Plans refused", ("reason",), registry=self.registry)
        self.generation = Gauge("interlock_plan_generation", "Plan in force", registry=self.registry)
        self.in_flight = Gauge("interlock_in_flight", "Decisions in flight", registry=self.registry)

    def took(self, specialist: str, arm: str, seconds: float) -> None:
        """Note one answer's time."""
        # Finding a child costs more than observing; there are as many as specialists have arms.
        child = self._latency.get((specialist, arm))
        if child is None:
            child = self._latency[specialist, arm] = self.latency.labels(specialist, arm.lower())
        child.observe(seconds)

    def serve(self, port: int) -> None:
        """Answer scrapes on loopback."""
        start_http_server(port, addr="127.0.0.1", registry=self.registry)
