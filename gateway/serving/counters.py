"""Exact counts per specialist, rollout, arm and bundle, for the control plane's gates."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.domain.assignment import Arm
from gateway.metrics import LATENCY_BOUNDS_US
from protos import decide_pb2, traffic_pb2

MAX_KEYS = 512
REASONS = {
    value: name.removeprefix("FALLBACK_REASON_").lower()
    for name, value in decide_pb2.FallbackReason.items()
    if value != decide_pb2.FALLBACK_REASON_UNSPECIFIED
}


@dataclass(slots=True)
class ArmCount:
    """Counts since the gateway started."""

    requests: int = 0
    errors: int = 0
    in_time: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_US) + 1))


@dataclass(slots=True)
class ShadowCount:
    """What became of one rollout's copies since the gateway started."""

    offered: int = 0
    sent: int = 0
    paired: int = 0
    disagreed: int = 0  # of the pairs
    late: int = 0  # of the pairs: the candidate alone would have missed the deadline
    drops: Counter[str] = field(default_factory=Counter)


class Counters:
    """Bounded: the oldest key goes first, which can only be a rollout long over."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, Arm, str], ArmCount] = {}
        self._shadows: dict[tuple[str, str, str], ShadowCount] = {}

    def of(self, specialist: str, salt: str, arm: Arm, bundle: str) -> ArmCount:
        """Return the counts to add to."""
        key = (specialist, salt, arm, bundle)
        found = self._counts.get(key)
        if found is None:
            if len(self._counts) >= MAX_KEYS:
                del self._counts[next(iter(self._counts))]
            found = self._counts[key] = ArmCount()
        return found

    def shadow_of(self, specialist: str, salt: str, candidate: str) -> ShadowCount:
        """Return a shadow's counts to add to."""
        key = (specialist, salt, candidate)
        found = self._shadows.get(key)
        if found is None:
            if len(self._shadows) >= MAX_KEYS:
                del self._shadows[next(iter(self._shadows))]
            found = self._shadows[key] = ShadowCount()
        return found

    @staticmethod
    def answered(count: ArmCount, place: int, in_time: bool, fallback: str) -> None:
        """Count one answer; ``place`` is its time's among LATENCY_BOUNDS_US, ``fallback`` its reason or empty."""
        count.requests += 1
        count.in_time += in_time
        if fallback:
            count.fallbacks[fallback] += 1
        count.latency[place] += 1

    @staticmethod
    def failed(count: ArmCount, place: int) -> None:
        """Count one call that ended in an error of ours."""
        count.requests += 1
        count.errors += 1
        count.latency[place] += 1

    def report(self) -> list[traffic_pb2.ArmCounters]:
        """Copy everything for the control plane."""
        return [
            traffic_pb2.ArmCounters(
                specialist=specialist,
                salt=salt,
                arm=int(arm),  # type: ignore[arg-type]
                bundle_digest=bundle,
                requests=count.requests,
                errors=count.errors,
                fallbacks=dict(count.fallbacks),
                in_time=count.in_time,
                latency_counts=count.latency,
            )
            for (specialist, salt, arm, bundle), count in self._counts.items()
        ]

    def shadows(self) -> list[tuple[str, ShadowCount]]:
        """List every rollout's counts with its specialist."""
        return [(specialist, count) for (specialist, _, _), count in list(self._shadows.items())]

    def shadow_report(self) -> list[traffic_pb2.ShadowCounters]:
        """Copy every shadow's counts for the control plane."""
        return [
            traffic_pb2.ShadowCounters(
                specialist=specialist,
                salt=salt,
                candidate_digest=candidate,
                offered=count.offered,
                sent=count.sent,
                paired=count.paired,
                drops=dict(count.drops),
            )
            for (specialist, salt, candidate), count in self._shadows.items()
        ]
