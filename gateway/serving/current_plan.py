"""The plan in force: check, load, remember, swap. A refused plan changes nothing."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from gateway.domain.assignment import Arm
from gateway.engines.pool import Pool
from gateway.metrics import Metrics
from gateway.serving.cache import DecisionCache, TaskCache
from gateway.serving.counters import REASONS
from gateway.serving.lanes import Lane, Lanes
from gateway.serving.ports import BundleRefused, WorkerAway
from protos import traffic_pb2
from protos.contract.attestation import Operators
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.engines import EngineInexact, check_exactness
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import PlanRefused, check_approvals, check_plan, open_plan
from protos.contract.task import TaskSpec

log = structlog.get_logger()

LOAD_TIMEOUT_S = 30.0


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
        operators: Operators,
        store: BundleStore,
        pool: Pool,
        lanes: Lanes,
        cache: DecisionCache,
        state_dir: Path,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.routes: Routes | None = None
        self._deployment = deployment
        self._key = key
        self._operators = operators
        self._store = store
        self._pool = pool
        self._lanes = lanes
        self._cache = cache
        self._path = state_dir / "plan.pb"
        self._metrics = metrics
        self._clock = clock
        self._applying = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Generation in force; 0 when there is none."""
        return self.routes.plan.generation if self.routes is not None else 0

    async def offer(self, offer: traffic_pb2.PlanOffer) -> TrafficPlan:
        """Apply a plan, or leave everything as it is.

        Raises:
            PlanRefused: With a closed reason; the plan in force stays.
        """
        async with self._applying:
            try:
                return await self._apply(offer, is_stored=False)
            except PlanRefused as refused:
                self._metrics.refusals.labels(refused.reason).inc()
                log.warning("plan_refused", reason=refused.reason, error=str(refused))
                raise

    async def restore(self) -> None:
        """Apply the last good plan from disk, verified like any other; nothing there is fine."""
        try:
            offer = traffic_pb2.PlanOffer.FromString(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, DecodeError) as error:
            log.error("stored_plan_unreadable", path=str(self._path), error=str(error))
            return
        async with self._applying:
            try:
                await self._apply(offer, is_stored=True)
            except PlanRefused as refused:
                log.error("stored_plan_refused", reason=refused.reason, error=str(refused))

    async def _apply(self, offer: traffic_pb2.PlanOffer, *, is_stored: bool) -> TrafficPlan:
        plan = open_plan(offer.plan, self._key)
        approvals = check_approvals(offer.approvals, self._operators)
        before = self.routes.plan if self.routes is not None else None
        check_plan(
            before, plan, approvals, self._operators, self._deployment, int(self._clock()), was_in_force=is_stored
        )
        by_name = {split.specialist: self._route(split, plan.generation) for split in plan.splits}
        needed = {bundle for split in plan.splits for bundle in _bundles(split)}
        if is_stored:
            # Serving may start before any worker does; until one has the bundle, callers get fallbacks.
            for bundle in needed:
                self._want(bundle)
        else:
            await self._load(needed)
            self._check_exactness(plan)
        if not is_stored:
            self._remember(offer)
        for name in by_name:
            self._metrics.prepare(name, Arm, REASONS.values())
        # The one moment of change: requests read this reference once and keep what they read.
        self.routes = Routes(plan, by_name)
        self._metrics.generation.set(plan.generation)
        self._pool.keep_only(needed)
        self._lanes.keep_only(needed)
        self._cache.keep_only(needed)
        log.info("plan_applied", generation=plan.generation, digest=plan.digest)
        return plan

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
        for bundle in {bundle for split in plan.splits for bundle in _bundles(split)}:
            found = self._pool.capabilities(bundle)
            manifest = self._store.manifest(bundle)
            if found is not None:
                try:
                    check_exactness(manifest.task, found.label_logprobs, manifest.backend)
                except EngineInexact as error:
                    raise PlanRefused("engine_inexact", f"bundle {bundle}: {error}") from error

    def _remember(self, offer: traffic_pb2.PlanOffer) -> None:
        staging = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with staging.open("wb") as file:
                file.write(offer.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            os.replace(staging, self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                staging.unlink()
            raise PlanRefused("state_not_written", f"the plan cannot be stored: {error}") from error


def _bundles(split: Split) -> set[str]:
    return {digest for digest in (split.primary, split.candidate, split.previous) if digest is not None}
