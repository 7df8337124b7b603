"""Which bundles are needed, and why: garbage collection removes nothing that has a reason to stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protos.contract.plan import TrafficPlan


@dataclass(frozen=True, slots=True)
class Found:
    """One bundle in a store: when it was written, Unix seconds, and its size in bytes."""

    digest: str
    made: float
    size: int


def needed_by_plan(plan: TrafficPlan, name: str) -> dict[str, str]:
    """Return the bundles of a plan, each with its part in it; ``previous`` is the way back."""
    reasons = {}
    for split in plan.splits:
        for part in ("previous", "candidate", "primary"):
            digest = getattr(split, part)
            if digest is not None:
                reasons[digest] = f"{part} of {split.specialist} in {name}"
    return reasons


def removable(
    found: Iterable[Found], needed: Mapping[str, str], parents: Mapping[str, str], now: float, keep_s: float
) -> tuple[list[Found], dict[str, str]]:
    """Divide a store's bundles into those to remove and those that stay.

    Args:
        needed: Bundle to the reason it is needed.
        parents: Bundle to the bundle it was made from: what a needed one compares itself with stays too.
        keep_s: A bundle younger than this stays: it may be on its way into a rollout.
    Returns:
        What may go, oldest first, and for each that stays, why.
    """
    reasons = dict(needed)
    for digest in list(needed):
        parent = parents.get(digest)
        if parent is not None:
            reasons.setdefault(parent, f"parent of {digest}")
    gone = []
    for bundle in sorted(found, key=lambda b: (b.made, b.digest)):
        if bundle.digest in reasons:
            continue
        if now - bundle.made < keep_s:
            reasons[bundle.digest] = "younger than the age to keep"
        else:
            gone.append(bundle)
    return gone, reasons


def removable_bases(
    found: Iterable[Found], references: Mapping[str, str | None], now: float, keep_s: float
) -> tuple[list[Found], dict[str, str]]:
    """Divide a store's base models into those to remove and those that stay.

    Args:
        references: Each bundle that stays to the base it refers to; None where that cannot be read.
        keep_s: A base younger than this stays: a bundle on it may be in the making.
    Returns:
        What may go, oldest first, and for each that stays, why.
    """
    unread = next((bundle for bundle, base in references.items() if base is None), None)
    users = {base: bundle for bundle, base in sorted(references.items(), reverse=True) if base}
    gone, reasons = [], {}
    for base in sorted(found, key=lambda b: (b.made, b.digest)):
        if base.digest in users:
            reasons[base.digest] = f"base of {users[base.digest]}"
        elif unread is not None:
            reasons[base.digest] = f"what {unread} is based on cannot be read"
        elif now - base.made < keep_s:
            reasons[base.digest] = "younger than the age to keep"
        else:
            gone.append(base)
    return gone, reasons
