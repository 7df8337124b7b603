"""Which bundles the control plane's memory needs, and clearing away the others."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from controlplane.domain.retention import Found, needed_by_plan, removable, removable_bases
from controlplane.store import jobs, plans, rollouts
from controlplane.store.leftovers import leftovers
from controlplane.store.store import Unit
from controlplane.store.tables import job
from protos.contract.base import BaseStore
from protos.contract.bundle import BundleInvalid, BundleStore, Manifest
from protos.contract.url_store import UrlStore, bases_of


def bundles_needed(unit: Unit) -> dict[str, str]:
    """Return every bundle that a plan, a rollout or a job needs, with the reason.

    Plans: the newest one that stands, every one offered, the last one applied, and whatever some gateway was last
    seen with: it serves it until it hears of another.
    """
    needed: dict[str, str] = {}
    for opened in rollouts.opened(unit):
        for part in ("candidate", "primary"):
            digest = getattr(opened.state, part)
            if digest is not None:
                needed[digest] = f"{part} of rollout {opened.state.id}"
    for found in unit.connection.execute(select(job).where(job.c.state.in_(jobs.UNFINISHED))):
        for digest in _digests(found.request):
            needed[digest] = f"job {found.id}"
    kept = [*plans.with_state(unit, plans.OFFERED), *plans.with_state(unit, plans.APPLIED)[-1:]]
    standing = plans.standing(unit)
    if standing is not None:
        kept.append(standing)
    for gateway in plans.gateways(unit):
        row = plans.get(unit, gateway.generation)
        if row is not None:
            kept.append(row)
    for row in kept:
        needed |= needed_by_plan(row.plan, f"plan {row.generation}")
    return needed


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith("sha256:"):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from _digests(item)


@dataclass(frozen=True, slots=True)
class Part:
    """Of bundles, or of bases: those that nothing needs, and why the others stay."""

    gone: list[Found]
    kept: dict[str, str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a store holds without need; ``missing`` is needed, and why, and not there."""

    bundles: Part
    bases: Part
    missing: dict[str, str]
    unfinished: dict[str, int]  # bytes of what killed writers left, by place


def collect(
    unit: Unit, store: BundleStore, also: Mapping[str, str], now: float, keep_s: float, *, delete: bool
) -> Collected:
    """Find what a store holds without need, and with ``delete`` remove it and say so in the ledger.

    Args:
        also: Bundles that somebody else needs, with the reason.
        now: Unix seconds; what is younger than ``keep_s`` stays.
    """
    bases = bases_of(store)
    needed = bundles_needed(unit) | dict(also)
    found = _found(store)
    manifests = _manifests(store, [bundle.digest for bundle in found])
    parents = {d: str(m.lineage["parent"]) for d, m in manifests.items() if m.lineage.get("parent")}
    gone, reasons = removable(found, needed, parents, now, keep_s)
    staying = {bundle.digest for bundle in found} - {bundle.digest for bundle in gone}
    # What a manifest that cannot be read refers to is not known: then every base stays.
    references = {d: str(manifests[d].base.get("digest", "")) if d in manifests else None for d in staying}
    gone_bases, base_reasons = removable_bases(_found(bases), references, now, keep_s)
    if delete and (gone or gone_bases):
        for bundle in gone:
            store.remove(bundle.digest)
        for base in gone_bases:
            bases.remove(base.digest)
        names = {"bundles": [b.digest for b in gone], "bases": [b.digest for b in gone_bases]}
        where = store.url if isinstance(store, UrlStore) else str(store.root)
        unit.record("operator", "bundles_removed", {"store": where, **names})
    missing = {digest: needed[digest] for digest in sorted(set(needed) - {bundle.digest for bundle in found})}
    kept = {digest: reason for digest, reason in reasons.items() if digest not in missing}
    unfinished = leftovers(store, now, keep_s, delete=delete)
    return Collected(Part(gone, kept), Part(gone_bases, base_reasons), missing, unfinished)


def _found(store: BundleStore | BaseStore) -> list[Found]:
    return [Found(digest, store.made(digest), store.size(digest)) for digest in store.digests()]


def _manifests(store: BundleStore, digests: list[str]) -> dict[str, Manifest]:
    read = {}
    for digest in digests:
        with contextlib.suppress(BundleInvalid):
            read[digest] = store.manifest(digest)
    return read
