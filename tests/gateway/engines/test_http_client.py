"""Connections to HTTP servers."""

import asyncio

from aiohttp import web

from gateway.engines.http_client import HttpClient
from gateway.engines.ports import Endpoint
from tests.batteries.engines import PATIENCE_S

UVICORN_CLOSES_IDLE_S = 5.0


def test_an_idle_connection_is_given_up_before_the_server_closes_it() -> None:
    """A question sent just as the server closes is lost, and a POST is not asked again."""

    async def story() -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text="{}")

        app = web.Application()
        app.router.add_get("/health", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = HttpClient(Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        assert await client.call("GET", "/health", None, PATIENCE_S) == b"{}"
        connector = client._open().connector
        assert connector is not None
        assert 0 < connector._keepalive_timeout < UVICORN_CLOSES_IDLE_S  # type: ignore[attr-defined]
        await client.close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
