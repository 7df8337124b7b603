"""The plan in force: check, load, remember, swap. A refused plan changes nothing."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.domain.assignment import Arm
from gateway.engines.pool import Pool
from gateway.errors import NothingToLeave, RollbackForbidden
from gateway.metrics import Metrics
from gateway.serving.cache import DecisionCache, TaskCache
from gateway.serving.counters import REASONS
from gateway.serving.judge import Judge, Standing, less
from gateway.serving.lanes import Lane, Lanes
from gateway.serving.ports import BundleRefused, WorkerAway
from gateway.serving.state import StateFile
from gateway.serving.witness import Witness
from protos import traffic_pb2
from protos.contract.attestation import AttestationInvalid, Operators
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.digest import digest_bytes
from protos.contract.engines import EngineInexact, check_exactness
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import PlanRefused
from protos.contract.rollback import RollbackOrder, leave, verify_order
from protos.contract.task import TaskSpec

log = structlog.get_logger()

LOAD_TIMEOUT_S = 30.0
MOST_SPENT = 10_000
FORGET_AFTER_S = 86_400  # beyond an approval's end: no clock here is off by a day


@dataclass(frozen=True, slots=True)
class Route:
    """One specialist of the plan in force, with what the request path needs at hand; ``lanes`` by bundle."""

    split: Split
    task: TaskSpec
    generation: int
    lanes: Mapping[str, Lane]
    cache: TaskCache | None


@dataclass(frozen=True, slots=True)
class Routes:
    """An immutable view of the plan in force; a request reads it once."""

    plan: TrafficPlan
    by_name: dict[str, Route]


class CurrentPlan:
    """Owns the plan in force and the last good one on disk."""

    def __init__(
        self,
        *,
        deployment: str,
        key: Ed25519PublicKey,
        operators: Callable[[], Operators],
        store: BundleStore,
        pool: Pool,
        lanes: Lanes,
        cache: DecisionCache,
        state_dir: Path,
        metrics: Metrics,
        witness: Witness | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.routes: Routes | None = None
        self.witness = witness or Witness(deployment, key)
        self._deployment = deployment
        self._judge = Judge(deployment, key, operators, store, self.witness, clock)
        self._standing = Standing(None, (), (), (), 0.0)
        self._store = store
        self._pool = pool
        self._lanes = lanes
        self._cache = cache
        self._file = StateFile(state_dir)
        self._state = traffic_pb2.GatewayState()
        self._metrics = metrics
        self._clock = clock
        self._applying = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Generation in force; 0 when there is none."""
        return self.routes.plan.generation if self.routes is not None else 0

    @property
    def digest(self) -> str:
        """Digest of the plan that stands, as it was signed; empty when there is none."""
        return self._standing.plan.digest if self._standing.plan is not None else ""

    @property
    def operators(self) -> Operators:
        """The list of people this gateway goes by now."""
        return self._judge.operators

    @property
    def rollbacks(self) -> Sequence[traffic_pb2.LocalRollback]:
        """Rollbacks made here that no plan carries yet."""
        return self._standing.rollbacks

    @property
    def to_tell(self) -> Sequence[traffic_pb2.LocalRollback]:
        """Rollbacks made here that the control plane has to hear of."""
        return (*self._standing.rollbacks, *self._standing.untold)

    def note_newest(self, generation: int) -> None:
        """Take the control plane's word for which plan is the newest: a gateway on it missed nothing so far."""
        if 0 < generation <= self.generation:
            self._standing = replace(self._standing, current_at=self._clock())
            self._file.note_current(self._standing.current_at)

    def note_recorded(self, orders: Collection[str]) -> None:
        """Take the control plane's word that the ledger has these orders: what a plan carries is told no more."""
        untold = tuple(made for made in self._standing.untold if digest_bytes(made.order.payload) not in orders)
        if untold != self._standing.untold:
            self._standing = replace(self._standing, untold=untold)
            try:
                self._save(self._stored_offer())
            except OSError as error:
                log.error("state_not_written", error=str(error))

    async def offer(self, offer: traffic_pb2.PlanOffer) -> TrafficPlan:
        """Apply a plan, or leave everything as it is.

        Raises:
            PlanRefused: With a closed reason; the plan in force stays.
        """
        async with self._applying:
            try:
                return await self._take(offer)
            except PlanRefused as refused:
                self._metrics.refusals.labels(refused.reason).inc()
                self._keep_witnessed()
                log.warning("plan_refused", reason=refused.reason, error=str(refused))
                raise

    def roll_back(self, envelope: traffic_pb2.Envelope) -> RollbackOrder:
        """Obey a person's order to leave a bundle. Waits for nothing, not even a plan that is being loaded.

        Raises:
            RollbackForbidden: Nobody who may has ordered this, or not for here and now.
            NothingToLeave: The bundle does not serve here, or the order was carried out before.
        """
        began = time.monotonic()
        self._judge.look()
        try:
            order = verify_order(envelope, self.operators, self._deployment, int(self._clock()))
        except AttestationInvalid as error:
            self._metrics.rollbacks.labels(error.reason).inc()
            raise RollbackForbidden(error.reason, str(error)) from error
        if any(r.order.payload == envelope.payload for r in self.rollbacks):
            return order
        split = self.routes.plan.split_for(order.specialist) if self.routes is not None else None
        if split is None or leave(split, order.bundle) is None or self._is_spent(order.digest):
            self._metrics.rollbacks.labels("nothing_to_leave").inc()
            raise NothingToLeave(order.bundle)
        assert self._standing.plan is not None
        made = traffic_pb2.LocalRollback(
            order=envelope,
            at_unix_ms=int(self._clock() * 1000),
            generation=self.generation,
            salt=split.salt,
        )
        carried_out = traffic_pb2.SpentApproval(digest=order.digest, expires=order.expires)
        standing = self._standing
        self._standing = replace(standing, rollbacks=(*standing.rollbacks, made), spent=(*standing.spent, carried_out))
        self._swap()
        made.took_us = int((time.monotonic() - began) * 1e6)
        try:
            self._save(self._stored_offer())
        except OSError as error:
            # Safe at once matters more than safe after a restart.
            log.error("rollback_not_stored", error=str(error))
        self._metrics.rollbacks.labels("done").inc()
        log.warning("rolled_back", specialist=order.specialist, bundle=order.bundle, person=order.person)
        return order

    async def restore(self) -> None:
        """Go on from what is on disk, verified like anything offered; nothing there is fine."""
        self._state = state = self._file.load()
        self._judge.restore(state.operators, state.checkpoint)
        self._standing = Standing(
            None, (), tuple(state.spent), tuple(state.rollbacks), self._file.current_at(), tuple(state.untold)
        )
        if not state.HasField("offer"):
            return
        async with self._applying:
            try:
                await self._restore(state.offer)
            except PlanRefused as refused:
                log.error("stored_plan_refused", reason=refused.reason, error=str(refused))

    async def _restore(self, offer: traffic_pb2.PlanOffer) -> None:
        judged = self._judge.judge(offer)
        await self._fetch(_needed(judged.plan))
        self._judge.check_stored(judged)
        # Serving may start before any worker does; until one has the bundle, callers get fallbacks.
        for bundle in _needed(judged.plan):
            self._want(bundle)
        self._standing = replace(self._standing, plan=judged.plan, approvals=judged.approvals.good)
        self._swap()

    async def _take(self, offer: traffic_pb2.PlanOffer) -> TrafficPlan:
        self._state.operators.extend(self._judge.follow(offer))
        judged = self._judge.judge(offer)
        plan = judged.plan
        await self._fetch(_needed(plan))  # of a plan whose signatures are good only
        self._judge.check(self._standing, judged)
        for split in plan.splits:
            self._route(split, plan.generation)  # raises before anything is loaded
        with self._pool.holding(_needed(plan)):
            await self._load(plan)
            self._check_exactness(plan)
            # Somebody may have rolled back meanwhile.
            before, self._standing = self._standing, self._judge.check(self._standing, judged)
            try:
                self._save(offer)
            except OSError as error:
                self._standing = before
                raise PlanRefused("state_not_written", f"the plan cannot be stored: {error}") from error
            self._swap()
        await self._trim(plan)
        log.info("plan_applied", generation=plan.generation, digest=plan.digest)
        return plan

    def _swap(self) -> None:
        """Put the plan that stands in force, less what was rolled back here."""
        plan = self._standing.plan
        assert plan is not None
        effective = replace(plan, splits=tuple(less(split, self.rollbacks) for split in plan.splits))
        by_name = {split.specialist: self._route(split, plan.generation) for split in effective.splits}
        for name in by_name:
            self._metrics.prepare(name, Arm, REASONS.values())
        # The one moment of change: requests read this reference once and keep what they read.
        self.routes = Routes(effective, by_name)
        self._metrics.generation.set(plan.generation)
        self._pool.keep_only(_needed(plan))
        self._lanes.keep_only(_needed(plan))
        self._cache.keep_only(_needed(plan))

    def _route(self, split: Split, generation: int) -> Route:
        tasks = {}
        for bundle in _bundles(split):
            try:
                tasks[bundle] = self._store.manifest(bundle).task
            except BundleInvalid as error:
                raise PlanRefused("bundle_invalid", str(error)) from error
        task = tasks[split.primary]
        for bundle, other in tasks.items():
            if (other.name, other.labels, other.decisions) != (split.specialist, task.labels, task.decisions):
                raise PlanRefused(
                    "bundle_invalid", f"bundle {bundle} answers another task than {split.specialist!r} as served now"
                )
        cache = self._cache.for_task(task.name, task.cache_ttl_ms)
        return Route(split, task, generation, self._lanes.of(split, task), cache)

    async def _fetch(self, needed: set[str]) -> None:
        """Have the bundles in this machine's store, on a thread of its own: requests go on."""
        for bundle in sorted(needed) if self._store.is_filled else ():
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    await asyncio.to_thread(self._store.fetch, bundle)
            except (BundleInvalid, OSError) as error:
                raise PlanRefused("bundle_invalid", str(error)) from error
            except TimeoutError as error:
                raise PlanRefused("engine_unavailable", f"{bundle} was not fetched in time") from error

    async def _trim(self, plan: TrafficPlan) -> None:
        """Let go of fetched bundles that no plan, way back or preload needs, where there are too many."""
        keep = _needed(plan).union(self._pool.preloads)
        try:
            gone = await asyncio.to_thread(self._store.trim, keep)
        except OSError as error:
            log.warning("bundles_not_trimmed", error=str(error))
        else:
            if gone:
                log.info("bundles_trimmed", bundles=gone)

    async def _load(self, plan: TrafficPlan) -> None:
        """Have ready what gains traffic; the rest is asked for, since no engine may keep a weight from falling."""
        in_force = self.routes.plan if self.routes is not None else None
        gaining = {bundle for split in plan.splits for bundle in _gaining(split, in_force)}
        for bundle in sorted(_needed(plan) - gaining):
            self._want(bundle)
        try:
            await self._load_each(gaining)
        except PlanRefused:  # whoever refused a bundle has given it up
            for bundle in _needed(in_force) if in_force is not None else ():
                self._want(bundle)
            raise

    async def _load_each(self, bundles: set[str]) -> None:
        for bundle in sorted(bundles):
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    await self._pool.load(bundle)
            except BundleRefused as error:
                raise PlanRefused("bundle_invalid", str(error)) from error
            except (WorkerAway, TimeoutError) as error:
                raise PlanRefused("engine_unavailable", f"no engine could load {bundle}: {error}") from error

    def _want(self, bundle: str) -> None:
        try:
            self._pool.want(bundle)
        except BundleRefused as error:
            raise PlanRefused("bundle_invalid", str(error)) from error

    def _check_exactness(self, plan: TrafficPlan) -> None:
        """Refuse engines that say, now that they have the bundle, that they answer less exactly than it demands."""
        for bundle in _needed(plan):
            found = self._pool.capabilities(bundle)
            manifest = self._store.manifest(bundle)
            if found is not None:
                try:
                    check_exactness(manifest.task, found.label_logprobs, manifest.backend)
                except EngineInexact as error:
                    raise PlanRefused("engine_inexact", f"bundle {bundle}: {error}") from error

    def _is_spent(self, digest: str) -> bool:
        return any(s.digest == digest for s in self._standing.spent)

    def _keep_witnessed(self) -> None:
        """Remember the head that came with a refused plan: it is held against the ledger after a restart too."""
        if self._state.checkpoint != self.witness.text:
            self._state.checkpoint = self.witness.text
            try:
                self._file.save(self._state)
            except OSError as error:
                log.error("head_not_stored", error=str(error))

    def _stored_offer(self) -> traffic_pb2.PlanOffer | None:
        return self._state.offer if self._state.HasField("offer") else None

    def _save(self, offer: traffic_pb2.PlanOffer | None) -> None:
        """Write down what a restart goes on from; raises OSError and keeps what was written before."""
        now = int(self._clock())
        spent = {
            s.digest: traffic_pb2.SpentApproval(digest=s.digest, expires=s.expires)
            for s in self._standing.spent
            if s.expires + FORGET_AFTER_S > now
        }
        state = traffic_pb2.GatewayState(
            checkpoint=self.witness.text,
            operators=self._state.operators,
            spent=sorted(spent.values(), key=lambda s: -s.expires)[:MOST_SPENT],
            rollbacks=self.rollbacks,
            untold=self._standing.untold,
        )
        if offer is not None:
            state.offer.CopyFrom(offer)
            del state.offer.steps[:]  # history
        self._file.save(state)
        self._state = state
        self._standing = replace(self._standing, spent=tuple(state.spent))


def _needed(plan: TrafficPlan) -> set[str]:
    return {bundle for split in plan.splits for bundle in _bundles(split)}


def _gaining(split: Split, in_force: TrafficPlan | None) -> set[str]:
    """Return the bundles that a split gives more than they have now: a role, or a higher weight."""
    now = in_force.split_for(split.specialist) if in_force is not None else None
    if now is None:
        return _bundles(split)
    gaining = _bundles(split) - _bundles(now)
    if split.primary != now.primary:
        gaining.add(split.primary)
    if split.candidate is not None and (split.candidate != now.candidate or split.canary_bp > now.canary_bp):
        gaining.add(split.candidate)
    return gaining


def _bundles(split: Split) -> set[str]:
    return {digest for digest in (split.primary, split.candidate, split.previous) if digest is not None}
