"""A control plane and a gateway's plan in one process, over a real port: everything but engines and callers."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from controlplane.domain.rollout import Phase
from controlplane.loop import advance, opening
from controlplane.loop.publish import publish, standing_split
from controlplane.rpc.server import ControlServer
from controlplane.rpc.traffic import PlanBell
from controlplane.store import counters as counter_rows
from controlplane.store import ledger, plans, records, rollouts
from controlplane.store.rollouts import RolloutRow
from gateway.metrics import Metrics
from gateway.rpc.control_channel import control_channel
from gateway.rpc.plan_watch import PlanWatch
from gateway.serving.cache import DecisionCache
from gateway.serving.capture import CaptureLane
from gateway.serving.counters import Counters
from gateway.serving.current_plan import CurrentPlan
from gateway.serving.lanes import Lanes, LaneSettings
from gateway.serving.witness import Witness, witness_key
from protos.contract.attestation import Approval, Operators, read_private, read_public, sign_approval
from protos.contract.digest import canonical_json, digest_bytes, digest_json
from protos.contract.ledger_proof import APPROVAL_GIVEN
from protos.contract.plan import Split
from protos.contract.plan_rules import to_split_digest
from tests.controlplane.loop.fixture import NAME, ZERO, World, world
from tests.gateway.serving.plans import LoadsAll

PATIENCE_S = 300.0


class Governed:
    """Runs the server and the gateway's watch on a loop of their own thread."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.world: World = world(root, tick_s=0.05, **settings)
        self.clock = self.world.clock
        self.port = 0
        self.plan: CurrentPlan | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: ControlServer | None = None
        self._watch: Any = None

    @property
    def deployment(self) -> Any:
        return self.world.deployment

    def run(self, work: Any) -> Any:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def start(self) -> None:
        self._thread.start()
        self.run(self._serve())

    async def _serve(self, address: str = "127.0.0.1:0") -> None:
        async def in_thread(work: Callable[[], Any]) -> Any:
            return await asyncio.to_thread(work)

        bell = PlanBell()
        self.world.deployment = replace(self.world.deployment, changed=bell.ring)
        self._server = ControlServer(self.world.deployment, in_thread, bell)
        self.port = await self._server.start(address)

    def stop_control(self) -> None:
        """Take the control plane away."""
        assert self._server is not None
        self.run(self._server._server.stop(0))
        self._server = None

    def start_control(self) -> None:
        """Bring the control plane back on its port."""
        self.run(self._serve(f"127.0.0.1:{self.port}"))

    def start_gateway(
        self, token: Path | None = None, tls: tuple[Path, Path, Path] | None = None, pool: Any = None
    ) -> CurrentPlan:
        """Start, or restart, a gateway that follows this control plane; without a pool its engines load all."""
        self.stop_gateway()
        key = read_public(self.root / "plan.key.pub")
        state, metrics, counters = self.root / "gw", Metrics(), Counters()

        async def begin() -> CurrentPlan:
            def now() -> float:
                return self.clock() / 1000

            plan = CurrentPlan(
                deployment="test",
                key=key,
                operators=partial(Operators.read, self.root / "operators.json"),
                store=self.deployment.bundles,
                pool=pool or LoadsAll(),
                lanes=Lanes(LaneSettings(), 16),
                cache=DecisionCache(0),
                state_dir=state,
                metrics=metrics,
                witness=Witness("test", key, gateway_id="g", own_key=witness_key(state), clock=now),
                clock=now,
            )
            await plan.restore()
            capture = CaptureLane(
                self.root / "unused",
                "run",
                "g",
                metrics,
                max_records=10,
                quota_bytes=10**6,
                segment_bytes=10**6,
                segment_s=60,
                seal=None,
                flush_s=1,
            )
            watch = PlanWatch(
                f"127.0.0.1:{self.port}",
                gateway_id="g",
                run_id="run",
                plan=plan,
                counters=counters,
                capture=capture,
                report_interval_s=0.05,
                channel=lambda: control_channel(f"127.0.0.1:{self.port}", token, *(tls or (None,))),
            )
            self._watch = asyncio.create_task(watch.run()), capture
            return plan

        self.plan = self.run(begin())
        return self.plan

    def stop_gateway(self) -> None:
        if self._watch is not None:
            task, capture = self._watch
            self._loop.call_soon_threadsafe(task.cancel)
            capture.close()
            self._watch = None

    def stop(self) -> None:
        self.stop_gateway()
        if self._server is not None:
            self.stop_control()

        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self.deployment.store.close()

    def until(self, is_reached: Callable[[], Any], what: str = "") -> Any:
        """Look until something is so."""

        async def look() -> Any:
            async with asyncio.timeout(PATIENCE_S):
                while not (found := await asyncio.to_thread(is_reached)):
                    if self._watch is not None and self._watch[0].done():
                        self._watch[0].result()  # a gateway that follows no more says why
                    await asyncio.sleep(0.005)
                return found

        try:
            return self.run(look())
        except TimeoutError:
            raise AssertionError(f"never reached: {what}") from None

    def split(self) -> Split | None:
        """Return what the gateway serves."""
        routes = self.plan.routes if self.plan is not None else None
        return None if routes is None else routes.plan.split_for(NAME)

    def rollout(self, name: str) -> RolloutRow:
        with self.deployment.store.reading() as unit:
            found = rollouts.get(unit, name)
        assert found is not None
        return found

    def approve(self, split: Split, before: Split, bundle: str, key: str = "ann.key", **changes: Any) -> None:
        """Have ann sign, and the ledger record, a change."""
        made = Approval(
            person="ann",
            specialist=NAME,
            rollout=split.salt,
            step="canary",
            bundle=bundle,
            evidence=ZERO,
            suite=ZERO,
            from_split=before.shape_digest(),
            to_split=to_split_digest(split, 10_000),
            ceiling_bp=10_000,
            audience="test",
            not_before=0,
            expires=2**40,
            nonce=f"n-{split.salt}",
            author="trainer",
            reason="test",
        )
        signed = sign_approval(replace(made, **changes), read_private(self.root / key))
        with self.deployment.store.writing(self.clock()) as unit:
            digest = digest_bytes(signed.payload)
            plans.add_approval(unit, digest, split.salt, NAME, bundle, signed)
            records.note(unit, digest, unit.record("ann", APPROVAL_GIVEN, {"statement": digest, "rollout": split.salt}))

    def approve_standing(self, bundle: str, key: str = "ann.key", **changes: Any) -> Split:
        """Have a change of nothing but weights approved, from the split that the gateway serves, and return that."""
        split = self.split()
        assert split is not None
        self.approve(split, split, bundle, key, **changes)
        return split

    def accepted(self, bundle: str, primary: str | None) -> None:
        """Keep an evaluation that accepts a bundle."""
        pack = self.deployment.pack(NAME)
        body = {
            "suite_digest": self.deployment.artifacts.put(canonical_json(pack.suite.to_json())),
            "candidate": bundle,
            "primary": primary,
            "accepted": True,
            "gates": [],
            "values": {"core": {"candidate": {"accuracy": {"value": 0.9, "interval": None}}}},
            "sizes": {"core": 10},
            "regressions_share": None,
            "worst_regressions": [],
        }
        with self.deployment.store.writing(self.clock()) as unit:
            rollouts.add_bundle(unit, bundle, NAME, "operator", "trainer")
            rollouts.add_evaluation(unit, digest_json(body), NAME, body)

    def proposed(self, bundle: str, primary: str | None) -> str:
        """Open a rollout of an accepted bundle and look at it once."""
        self.accepted(bundle, primary)
        with self.deployment.store.writing(self.clock()) as unit:
            name = opening.start(unit, self.deployment, NAME, bundle, "ops", None).state.id
        advance.advance(self.deployment)
        return name

    def shadowing(self) -> tuple[str, str, str]:
        """Return a shadowing rollout at a following gateway as (rollout, primary, candidate)."""
        old, new = self.world.bundle(1), self.world.bundle(2)
        self.world.first_plan(old)
        self.start_gateway()
        self.until(lambda: self.split(), "the first plan")
        name = self.proposed(new, old)
        self.until(lambda: self.split().candidate == new, "the shadow")  # type: ignore[union-attr]
        return name, old, new

    def canary(self) -> tuple[str, str, str]:
        """Return a rollout in its canary as (rollout, primary, candidate)."""
        name, old, new = self.shadowing()
        split = self.approve_standing(new)
        with self.deployment.store.writing(self.clock()) as unit:
            row = rollouts.get(unit, name)
            assert row is not None
            made = publish(unit, self.deployment, replace(split, canary_bp=row.state.stages_bp[0]), name)
            moved = rollouts.moved(row, phase=Phase.CANARY, stage=0)
            counts = counter_rows.arm_counts(unit, NAME, name)
            after = replace(moved, stage_generation=made.generation, stage_counts=counts)
            rollouts.move(unit, row, after, "test", "rollout.shifted", {})
        self.deployment.changed()
        self.until(lambda: self.split().canary_bp, "the canary")  # type: ignore[union-attr]
        return name, old, new

    def promote(self, name: str) -> Split:
        """Make a canary's candidate the primary, approved; returns the split that stands then."""
        with self.deployment.store.reading() as unit:
            before = standing_split(unit, NAME)
        assert before is not None and before.candidate is not None
        after = replace(
            before, primary=before.candidate, candidate=None, previous=before.primary, canary_bp=0, shadow_bp=0
        )
        self.approve(after, before, after.primary, step="primary", nonce=f"p-{name}")
        with self.deployment.store.writing(self.clock()) as unit:
            row = rollouts.get(unit, name)
            assert row is not None
            made = publish(unit, self.deployment, after, name)
            moved = replace(rollouts.moved(row, phase=Phase.PRIMARY), stage_generation=made.generation)
            rollouts.move(unit, row, moved, "test", "rollout.promoted", {})
        self.deployment.changed()
        return after


@contextmanager
def governed(root: Path, **settings: Any) -> Iterator[Governed]:
    """Run a control plane, and a gateway when asked, for a test."""
    # What a command prints is one document; what the processes log goes elsewhere.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    made = Governed(root, **settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        structlog.reset_defaults()


def entries(site: Governed, action: str) -> list[dict[str, Any]]:
    """What the ledger says of every such action, oldest first."""
    with site.deployment.store.reading() as unit:
        return [e.detail for e in ledger.entries(unit.connection, 0, 1000) if e.action == action]


def control(site: Governed) -> tuple[str, str]:
    """The option that tells a command where the control plane is."""
    return ("--control", f"127.0.0.1:{site.port}")
