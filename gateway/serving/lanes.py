"""What the calls to one bundle share at this gateway: learned times, the way in, the place in workers' queues.

Lanes outlive plans, as calls do: a plan that keeps a bundle keeps its lane.
"""

from dataclasses import dataclass

from gateway.domain.admission import FinishTimes
from gateway.domain.limit import FixedLimit, GradientLimit
from gateway.serving.gate import Gate
from protos import engine_pb2
from protos.contract.fields import Reader
from protos.contract.plan import Split
from protos.contract.task import TaskSpec

LIMITS = ("fixed", "gradient")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """How much each engine is given at once.

    Attributes:
        engine_limit: ``fixed``, or ``gradient``: a limit that follows latency.
        engine_max_in_flight: The fixed limit, or the most the gradient may reach; 0: the gateway's ``max_in_flight``.
        soft_queue: Calls of a ``soft`` task that may wait for one engine.
        batch_share: Share of one engine's limit that all ``batch`` tasks together may use.
    """

    engine_limit: str = "fixed"
    engine_max_in_flight: int = 0
    soft_queue: int = 64
    batch_share: float = 0.1

    @classmethod
    def take(cls, read: Reader) -> "LaneSettings":
        """Take the settings out of the gateway's table; raises FieldInvalid."""
        return cls(
            engine_limit=read.text("engine_limit", "fixed", choices=LIMITS),
            engine_max_in_flight=read.integer("engine_max_in_flight", 0, 1_000_000, 0),
            soft_queue=read.integer("soft_queue", 0, 100_000, 64),
            batch_share=read.number("batch_share", 0.01, 1, 0.1),
        )


@dataclass(slots=True)
class Lane:
    """One bundle's lane. ``gate`` is None where nothing but the gateway's own limit holds calls back."""

    times: FinishTimes
    gate: Gate | None
    priority: int


class Lanes:
    """The lanes of every bundle of the plan in force."""

    def __init__(self, settings: LaneSettings, max_in_flight: int) -> None:
        self._settings = settings
        self._max_in_flight = max_in_flight
        self._most = settings.engine_max_in_flight or max_in_flight
        self._lanes: dict[str, Lane] = {}
        self._batch = FixedLimit(max(1, int(settings.batch_share * self._most)))

    def of(self, split: Split, task: TaskSpec) -> dict[str, Lane]:
        """Return the lanes of a split's bundles, by bundle."""
        bundles = {split.primary, split.candidate, split.previous} - {None}
        return {bundle: self._lane(bundle, split, task.service_class) for bundle in bundles if bundle}

    def _lane(self, bundle: str, split: Split, service_class: str) -> Lane:
        found = self._lanes.get(bundle)
        if found is None:
            found = self._lanes[bundle] = Lane(FinishTimes(), self._gate(service_class), 0)
        if service_class == "batch":
            found.priority = engine_pb2.PRIORITY_BATCH
        else:
            is_candidate = bundle == split.candidate
            found.priority = engine_pb2.PRIORITY_CANARY if is_candidate else engine_pb2.PRIORITY_LIVE
        return found

    def _gate(self, service_class: str) -> Gate | None:
        settings = self._settings
        if settings.engine_limit == "gradient":
            limit: FixedLimit | GradientLimit = GradientLimit(self._most)
        elif service_class == "hard" and self._most >= self._max_in_flight:
            return None
        else:
            limit = FixedLimit(self._most)
        return Gate(
            limit,
            share=self._batch if service_class == "batch" else None,
            max_waiting=settings.soft_queue if service_class == "soft" else 0,
        )

    def keep_only(self, bundles: set[str]) -> None:
        """Forget bundles that no plan needs any more."""
        for bundle in self._lanes.keys() - bundles:
            del self._lanes[bundle]

    def all(self) -> dict[str, Lane]:
        """Copy the table, by bundle."""
        return dict(self._lanes)
