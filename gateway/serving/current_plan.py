"""The plan in force: check, load, remember, swap. A refused plan changes nothing."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
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
from gateway.serving.lanes import Lane, Lanes
from gateway.serving.ports import BundleRefused, WorkerAway
from gateway.serving.state import StateFile
from gateway.serving.witness import LedgerRefused, Witness
from protos import traffic_pb2
from protos.contract.attestation import Approval, AttestationInvalid, Operators
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.digest import digest_bytes
from protos.contract.engines import EngineInexact, check_exactness
from protos.contract.envelope import native
from protos.contract.fields import FieldInvalid
from protos.contract.ledger_proof import Recorded, recorded, signed_head
from protos.contract.operators import follow
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import Checked, PlanRefused, check_approvals, check_plan, open_plan, spent_by
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


@dataclass(frozen=True, slots=True)
class _Judged:
    """An offer whose signatures and proofs are good, and what they say."""

    plan: TrafficPlan
    operators: Operators
    recorded: Recorded
    approvals: Checked


class CurrentPlan:
    """Owns the plan in force and the last good one on disk."""

    def __init__(
        self,
        *,
        deployment: str,
        key: Ed25519PublicKey,
        operators: Operators,
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
        self._key = key
        try:
            self._operators = self._checked(operators)
        except AttestationInvalid as error:
            raise FieldInvalid(f"operators: {error}") from error
        self._store = store
        self._pool = pool
        self._lanes = lanes
        self._cache = cache
        self._file = StateFile(state_dir)
        self._state = traffic_pb2.GatewayState()
        self._approvals = Checked((), ())
        self._metrics = metrics
        self._clock = clock
        self._applying = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Generation in force; 0 when there is none."""
        return self.routes.plan.generation if self.routes is not None else 0

    @property
    def operators(self) -> Operators:
        """The list of people this gateway goes by now."""
        return self._operators

    @property
    def rollbacks(self) -> Sequence[traffic_pb2.LocalRollback]:
        """Rollbacks made here that no plan carries yet."""
        return self._state.rollbacks

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
        try:
            order = verify_order(envelope, self._operators, self._deployment, int(self._clock()))
        except AttestationInvalid as error:
            self._metrics.rollbacks.labels(error.reason).inc()
            raise RollbackForbidden(error.reason, str(error)) from error
        if any(r.order.payload == envelope.payload for r in self._state.rollbacks):
            return order
        split = self.routes.plan.split_for(order.specialist) if self.routes is not None else None
        if split is None or leave(split, order.bundle) is None or self._is_spent(order.digest):
            self._metrics.rollbacks.labels("nothing_to_leave").inc()
            raise NothingToLeave(order.bundle)
        assert self.routes is not None
        made = self._state.rollbacks.add(
            order=envelope,
            at_unix_ms=int(self._clock() * 1000),
            generation=self.generation,
            salt=split.salt,
        )
        self._spend([a for a in self._approvals.good if (a.specialist, a.bundle) == (order.specialist, order.bundle)])
        self._state.spent.add(digest=order.digest, expires=order.expires)
        self._swap(self.routes.plan)
        made.took_us = int((time.monotonic() - began) * 1e6)
        try:
            self._file.save(self._state)
        except OSError as error:
            # Safe at once matters more than safe after a restart.
            log.error("rollback_not_stored", error=str(error))
        self._metrics.rollbacks.labels("done").inc()
        log.warning("rolled_back", specialist=order.specialist, bundle=order.bundle, person=order.person)
        return order

    async def restore(self) -> None:
        """Go on from what is on disk, verified like anything offered; nothing there is fine."""
        self._state = state = self._file.load()
        try:
            self._operators = self._checked(follow(self._operators, state.operators))
            self.witness.restore(state.checkpoint)
        except (AttestationInvalid, LedgerRefused) as refused:
            log.error("stored_state_refused", reason=refused.reason, error=str(refused))
        if not state.HasField("offer"):
            return
        async with self._applying:
            try:
                await self._restore(state.offer)
            except PlanRefused as refused:
                log.error("stored_plan_refused", reason=refused.reason, error=str(refused))

    async def _restore(self, offer: traffic_pb2.PlanOffer) -> None:
        judged = self._judge(offer, is_stored=True)
        await self._fetch(_needed(judged.plan))
        self._check(None, judged, was_in_force=True)
        # Serving may start before any worker does; until one has the bundle, callers get fallbacks.
        for bundle in _needed(judged.plan):
            self._want(bundle)
        self._approvals = judged.approvals
        self._swap(judged.plan)

    async def _take(self, offer: traffic_pb2.PlanOffer) -> TrafficPlan:
        judged = self._judge(offer, is_stored=False)
        plan = judged.plan
        await self._fetch(_needed(plan))  # of a plan whose signatures are good only
        self._check(self._in_force(), judged)
        if digest_bytes(offer.plan.payload) not in judged.recorded.plans:
            raise PlanRefused("plan_not_recorded", f"the ledger is not shown to hold plan {plan.generation}")
        for split in plan.splits:
            self._route(split, plan.generation)  # raises before anything is loaded
        await self._load(_needed(plan))
        self._check_exactness(plan)
        # Somebody may have rolled back meanwhile.
        before = self._in_force()
        self._check(before, judged)
        self._remember(offer, spent_by(before, plan, self._approvals), plan)
        self._approvals = judged.approvals
        self._swap(plan)
        await self._trim(plan)
        log.info("plan_applied", generation=plan.generation, digest=plan.digest)
        return plan

    def _judge(self, offer: traffic_pb2.PlanOffer, *, is_stored: bool) -> _Judged:
        """Verify everything about an offer but whether its plan may follow the one in force."""
        try:
            if is_stored:
                head = signed_head(offer.checkpoint, self._deployment, self._key)
            else:
                head = self.witness.judge(offer)
                # First of all, whatever becomes of the rest: what was shown once has to be shown for ever.
                self.witness.take(head, offer.checkpoint)
                self._follow(offer.operators)
            plan = open_plan(offer.plan, self._key)
            found = recorded(offer.records, head)
        except (AttestationInvalid, LedgerRefused) as refused:
            raise PlanRefused(refused.reason, str(refused)) from refused
        approvals = check_approvals(offer.approvals, self._operators, found.approvals)
        return _Judged(plan, self._operators, found, approvals)

    def _check(self, before: TrafficPlan | None, judged: _Judged, *, was_in_force: bool = False) -> None:
        check_plan(
            before,
            judged.plan,
            judged.approvals,
            judged.operators,
            self._deployment,
            int(self._clock()),
            was_in_force=was_in_force,
            spent=frozenset(s.digest for s in self._state.spent),
            author_of=self._author_of,
        )

    def _follow(self, updates: Sequence[traffic_pb2.Envelope]) -> None:
        following = self._checked(follow(self._operators, updates))
        if following.version > self._operators.version:
            self._state.operators.extend(updates)
            self._operators = following
            log.warning("operators_changed", version=following.version)

    def _checked(self, operators: Operators) -> Operators:
        if operators.owner(native(self._key)) is not None:
            raise AttestationInvalid("operators_invalid", "the control plane's own key is enrolled as a person's")
        return operators

    def _author_of(self, bundle: str) -> str | None:
        try:
            author = self._store.manifest(bundle).lineage.get("author")
        except BundleInvalid:
            return None  # refused as such, a little later
        return author if isinstance(author, str) else None

    def _in_force(self) -> TrafficPlan | None:
        return self.routes.plan if self.routes is not None else None

    def _swap(self, plan: TrafficPlan) -> None:
        """Put a plan in force, less what was rolled back here."""
        effective = self._less_rollbacks(plan)
        by_name = {split.specialist: self._route(split, plan.generation) for split in effective.splits}
        for name in by_name:
            self._metrics.prepare(name, Arm, REASONS.values())
        # The one moment of change: requests read this reference once and keep what they read.
        self.routes = Routes(effective, by_name)
        self._metrics.generation.set(plan.generation)
        self._pool.keep_only(_needed(plan))
        self._lanes.keep_only(_needed(plan))
        self._cache.keep_only(_needed(plan))

    def _less_rollbacks(self, plan: TrafficPlan) -> TrafficPlan:
        splits = {split.specialist: split for split in plan.splits}
        for made in self._state.rollbacks:
            order = RollbackOrder.from_payload(made.order.payload)
            split = splits.get(order.specialist)
            left = leave(split, order.bundle) if split is not None and split.salt == made.salt else None
            if left is not None:
                splits[order.specialist] = left
        return replace(plan, splits=tuple(splits[split.specialist] for split in plan.splits))

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

    async def _load(self, needed: set[str]) -> None:
        for bundle in sorted(needed):
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
        return any(s.digest == digest for s in self._state.spent)

    def _spend(self, approvals: Sequence[Approval]) -> None:
        for approval in approvals:
            if not self._is_spent(approval.digest):
                self._state.spent.add(digest=approval.digest, expires=approval.expires)

    def _keep_witnessed(self) -> None:
        """Remember the head that came with a refused plan: it is held against the ledger after a restart too."""
        if self._state.checkpoint != self.witness.text:
            self._state.checkpoint = self.witness.text
            try:
                self._file.save(self._state)
            except OSError as error:
                log.error("head_not_stored", error=str(error))

    def _remember(self, offer: traffic_pb2.PlanOffer, spent: list[Approval], plan: TrafficPlan) -> None:
        """Write down what a restart goes on from; a disk that cannot refuses the plan."""
        before = traffic_pb2.GatewayState()
        before.CopyFrom(self._state)
        self._spend(spent)
        now = int(self._clock())
        kept = [s for s in self._state.spent if s.expires + FORGET_AFTER_S > now]
        rollbacks = [made for made in self._state.rollbacks if _still_matters(made, plan)]
        state = traffic_pb2.GatewayState(
            offer=offer,
            checkpoint=self.witness.text,
            operators=self._state.operators,
            spent=sorted(kept, key=lambda s: -s.expires)[:MOST_SPENT],
            rollbacks=rollbacks,
        )
        try:
            self._file.save(state)
        except OSError as error:
            self._state = before
            raise PlanRefused("state_not_written", f"the plan cannot be stored: {error}") from error
        self._state = state


def _still_matters(made: traffic_pb2.LocalRollback, plan: TrafficPlan) -> bool:
    order = RollbackOrder.from_payload(made.order.payload)
    split = plan.split_for(order.specialist)
    return split is not None and split.salt == made.salt and leave(split, order.bundle) is not None


def _needed(plan: TrafficPlan) -> set[str]:
    return {bundle for split in plan.splits for bundle in _bundles(split)}


def _bundles(split: Split) -> set[str]:
    return {digest for digest in (split.primary, split.candidate, split.previous) if digest is not None}
