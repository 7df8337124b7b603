"""What a plan that is superseded leaves behind in workers: nothing, once its last call has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from gateway.engines.pool import Pool
from gateway.serving.ports import EngineLink, WorkerAway
from protos.contract.bundle import BundleStore, Manifest
from tests.tasks import TASK

LATE_US = 20_000
HUNG_S = 20.0


@dataclass(eq=False)
class FakeLink:
    wanted: set[str]
    ready: set[str]
    preloads: set[str] = field(default_factory=set)
    unloaded: list[str] = field(default_factory=list)

    loading: asyncio.Event = field(default_factory=asyncio.Event)
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    def serves(self, manifest: Manifest) -> bool:
        return True

    async def load(self, bundle: str) -> None:
        if bundle not in self.ready:
            self.wanted.add(bundle)
            await self.loading.wait()
            raise WorkerAway(bundle)

    def unload(self, bundle: str) -> None:
        self.wanted.discard(bundle)
        self.ready.discard(bundle)
        self.unloaded.append(bundle)


def watched(tmp_path: Path, story: Callable[[Pool, FakeLink, list[str]], Awaitable[None]]) -> None:
    """Run a story with one engine that has two bundles ready and a third on its way."""
    store = BundleStore(tmp_path)
    task = replace(TASK, deadline_us=LATE_US)
    kept, ready, loading = (
        store.add(task=task, engine={"backend": "simulator", "seed": seed}, contents={}, base={}, lineage={}).digest
        for seed in range(3)
    )

    async def whole() -> None:
        link = FakeLink(wanted={kept, ready, loading}, ready={kept, ready})
        await story(Pool([cast(EngineLink, link)], store.manifest), link, [kept, ready, loading])

    asyncio.run(whole())


async def until_the_longest_call_ended() -> None:
    """Let all timers run out that a call's deadline set until now."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * LATE_US / 1e6, over.set)
    await over.wait()


def test_a_bundle_that_is_still_loading_when_its_plan_is_superseded_is_unloaded_at_once(tmp_path: Path) -> None:
    async def story(pool: Pool, link: FakeLink, bundles: list[str]) -> None:
        kept, ready, loading = bundles
        pool.keep_only({kept})
        assert link.unloaded == [loading]

    watched(tmp_path, story)


def test_calls_under_a_superseded_plan_still_find_its_bundle_until_the_longest_has_ended(tmp_path: Path) -> None:
    async def story(pool: Pool, link: FakeLink, bundles: list[str]) -> None:
        kept, ready, loading = bundles
        pool.keep_only({kept})
        assert pool.pick(ready) is cast(EngineLink, link)
        async with asyncio.timeout(HUNG_S):
            while ready not in link.unloaded:
                await asyncio.sleep(0)
        assert link.unloaded == [loading, ready] and not pool.is_ready(ready)

    watched(tmp_path, story)


def test_a_bundle_that_is_needed_again_before_it_left_stays(tmp_path: Path) -> None:
    async def story(pool: Pool, link: FakeLink, bundles: list[str]) -> None:
        kept, ready, _ = bundles
        pool.keep_only({kept})
        pool.keep_only({kept, ready})
        await until_the_longest_call_ended()
        assert pool.is_ready(ready)

    watched(tmp_path, story)


def test_a_bundle_that_a_new_plan_brings_back_stays_where_it_is_while_another_engine_loads_it(tmp_path: Path) -> None:
    async def story(pool: Pool, link: FakeLink, bundles: list[str]) -> None:
        kept, ready, _ = bundles
        slow = FakeLink(wanted={kept}, ready={kept})
        pool.links.append(cast(EngineLink, slow))
        for each in (link, slow):
            each.connected.set()
        pool.keep_only({kept})
        with pool.holding({kept, ready}):
            loads = asyncio.create_task(pool.load(ready))
            await until_the_longest_call_ended()
            slow.loading.set()
            await loads
            pool.keep_only({kept, ready})
        assert pool.is_ready(ready) and ready not in link.unloaded

    watched(tmp_path, story)


def test_what_a_plan_that_is_being_loaded_brings_stays_when_somebody_rolls_back_meanwhile(tmp_path: Path) -> None:
    async def story(pool: Pool, link: FakeLink, bundles: list[str]) -> None:
        kept, ready, loading = bundles
        with pool.holding({kept, loading}):
            pool.keep_only({kept})
            assert link.unloaded == []
        pool.keep_only({kept})
        assert link.unloaded == [loading]

    watched(tmp_path, story)
