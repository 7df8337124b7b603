"""What each arm of a rollout did: counters of every gateway, added up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane.store import counters
from controlplane.store.store import Unit

ARMS = {1: "primary", 2: "baseline", 3: "canary", 4: "shadow", 5: "holdback"}
# As every gateway reports them (gateway/metrics.py); one more bucket at the end holds what took longer.
BOUNDS_US = (100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10000, 15000, 20000, 30000, 50000, 75000, 100000)


@dataclass
class ArmSum:
    """One arm and bundle over a rollout's whole time."""

    requests: int = 0
    unanswered: int = 0
    late: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def quantile_ms(self, share: float) -> float:
        """Return the upper end of the bucket that holds the quantile; 0 where nothing is known or it is beyond all."""
        total, seen = sum(self.latency.values()), 0
        for bucket in sorted(self.latency):
            seen += self.latency[bucket]
            if total and seen >= share * total:
                return BOUNDS_US[bucket] / 1000 if bucket < len(BOUNDS_US) else 0.0
        return 0.0


def arm_sums(unit: Unit, specialist: str, salt: str) -> dict[tuple[str, str], ArmSum]:
    """Add up a rollout's counters by (arm, bundle)."""
    found: dict[tuple[str, str], ArmSum] = {}
    for row in counters.arm_rows(unit, specialist, salt):
        arm = found.setdefault((ARMS.get(row.arm, str(row.arm)), row.bundle), ArmSum())
        arm.requests += row.requests
        arm.unanswered += row.errors + sum(row.fallbacks.values())
        arm.late += row.requests - row.in_time
        counts: Sequence[int] = row.latency
        arm.latency.update(dict(enumerate(counts)))
    return found


def shadow_drops(unit: Unit, specialist: str, salt: str) -> Counter[str]:
    """Add up what a rollout's shadow did not see, by cause."""
    drops: Counter[str] = Counter()
    for row in counters.shadow_counts(unit, specialist, salt):
        drops.update(row.drops)
    return drops
