"""A server elsewhere is asked to hold and to forget bundles in the order the plans say, however slow it is."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import cast

from gateway.domain.capabilities import Capabilities, Health
from gateway.engines.ports import RemoteEngine, Served
from gateway.engines.remote import RemoteLink
from protos.contract.bundle import BundleStore
from tests.tasks import TASK


class Server:
    """Holds what it was last asked to hold of an adapter that all bundles share; ``slow`` calls wait to be let go."""

    def __init__(self) -> None:
        self.held = False
        self.slow: set[str] = set()
        self.let_go = asyncio.Event()
        self.begun: list[str] = []

    async def health(self) -> Health:
        return Health(True)

    async def load(self, served: Served) -> Capabilities:
        await self._call("load")
        self.held = True
        return Capabilities()

    async def unload(self, served: Served) -> None:
        await self._call("unload")
        self.held = False

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        return {}

    async def close(self) -> None: ...

    async def _call(self, name: str) -> None:
        self.begun.append(name)
        if name in self.slow:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)  # as of a call that is being taken back
                self.held = name == "load"
                raise

    async def until(self, *begun: str) -> None:
        while self.begun != list(begun):
            await asyncio.sleep(0)


async def time_to_go_wrong() -> None:
    """Let what does not wait its turn come to the server, a load from the thread that reads its bundle, and end."""
    for _ in range(50):
        await asyncio.to_thread(lambda: None)


def story(root: Path, told: Callable[[RemoteLink, Server, list[str]], Awaitable[None]]) -> None:
    store = BundleStore(root)
    bundles = [
        store.add(task=TASK, engine={"backend": "oip", "model": str(i)}, contents={}, base={}, lineage={}).digest
        for i in range(2)
    ]

    async def whole() -> None:
        server = Server()
        engine = cast(RemoteEngine, server)
        link = RemoteLink(engine, name="far", kind="oip", models=(), store=store, max_in_flight=1)
        looking = asyncio.create_task(link.run())
        await link.connected.wait()
        await told(link, server, bundles)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    asyncio.run(asyncio.wait_for(whole(), 30))


async def loaded_while_forgetting(link: RemoteLink, server: Server, forgotten: str, wanted: str) -> None:
    """Have a bundle wanted while the server is slow to forget one, and then let the server go on."""
    await link.load(forgotten)
    server.slow = {"unload"}
    link.unload(forgotten)
    loading = asyncio.create_task(link.load(wanted))
    await server.until("load", "unload")
    await time_to_go_wrong()
    server.let_go.set()
    await loading
    await time_to_go_wrong()


def test_a_bundle_wanted_again_while_it_is_being_forgotten_is_held_in_the_end(tmp_path: Path) -> None:
    async def told(link: RemoteLink, server: Server, bundles: list[str]) -> None:
        await loaded_while_forgetting(link, server, bundles[0], bundles[0])
        assert bundles[0] in link.ready and server.held
        assert server.begun == ["load", "unload", "load"]

    story(tmp_path, told)


def test_another_bundle_of_the_same_adapter_waits_until_it_is_forgotten(tmp_path: Path) -> None:
    async def told(link: RemoteLink, server: Server, bundles: list[str]) -> None:
        await loaded_while_forgetting(link, server, bundles[0], bundles[1])
        assert bundles[1] in link.ready and server.held

    story(tmp_path, told)


def test_a_load_that_is_taken_back_ends_before_the_bundle_is_forgotten(tmp_path: Path) -> None:
    async def told(link: RemoteLink, server: Server, bundles: list[str]) -> None:
        server.slow = {"load"}
        loading = asyncio.create_task(link.load(bundles[0]))
        await server.until("load")
        link.unload(bundles[0])
        await server.until("load", "unload")
        await asyncio.gather(loading, return_exceptions=True)
        assert not server.held and bundles[0] not in link.ready

    story(tmp_path, told)
