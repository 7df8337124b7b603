"""The front without a proxy of its own: callers speak HTTP/2 to this process.

For callers that something else holds back from the network: they are on this machine, or an edge proxy or a mesh
stands before them. It has no TLS. What it grants a caller is in ``http2_limits.STRANGER``.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.wire import Method

LOOK_S = 1.0  # how often connections are looked at
GREETING_S = 10.0
MOST_AGE_S = 300.0
LEAVE_S = 5.0  # that an old connection's last calls have, and a caller to read what was said before the end
NOISE_A_SECOND = 100  # is forgiven
DRAIN_LOOK_S = 0.02


class DirectFront:
    """Serve a method table on one address. Use from one event loop; ``start`` once, ``drain`` once."""

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        address: str,
        max_message_bytes: int = 262_144,
        max_connections: int = 2_000,
        max_calls: int = 128,
    ) -> None:
        self._address = address
        self._max_connections = max_connections
        self._server = GrpcServer(methods, max_message_bytes=max_message_bytes, limits=STRANGER, max_calls=max_calls)
        self._listener: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return self._server.in_flight

    def refused(self) -> int:
        """Return how many calls were refused because ``max_calls`` were open."""
        return self._server.refused

    async def start(self) -> int:
        """Listen and serve; returns the port. Raises OSError when the address cannot be bound."""
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connect, host.strip("[]"), int(port))
        self._looking = asyncio.create_task(look_after(self._server))
        return int(self._listener.sockets[0].getsockname()[1])

    async def drain(self, grace_s: float) -> None:
        """Take no new calls, give those that are open ``grace_s`` to end, then end them."""
        if self._listener is None or self._looking is None:
            return
        self._listener.close()
        self._looking.cancel()
        await drained(self._server, grace_s)
        await self._server.close()

    def _connect(self) -> asyncio.Protocol:
        # Who holds connections without calls keeps nobody out: calls have a limit of their own.
        if len(self._server.connections) >= self._max_connections and not self._server.end_one_without_calls():
            return _TooMany()
        return self._server.connect()


async def drained(server: GrpcServer, grace_s: float) -> None:
    """Begin no new calls, and give those that are open ``grace_s`` to end, and callers to read their answers."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            while server.connections:
                for connection in list(server.connections):
                    connection.leave()
                await asyncio.sleep(DRAIN_LOOK_S)


async def look_after(server: GrpcServer) -> None:
    """Send connections away that are no HTTP/2 or have stood long enough."""
    while True:
        await asyncio.sleep(LOOK_S)
        look(server, asyncio.get_running_loop().time())


def look(server: GrpcServer, now: float) -> None:
    """Look at every connection once."""
    for connection in list(server.connections):
        connection.noise = max(0, connection.noise - NOISE_A_SECOND)
        age = now - connection.began
        if connection.ended is not None:
            if now - connection.ended > LEAVE_S:
                connection.abort()
        elif age > MOST_AGE_S + LEAVE_S or (age > GREETING_S and not connection.is_greeted):
            connection.close()
        elif age > MOST_AGE_S:
            connection.leave()


class _TooMany(asyncio.Protocol):
    """A connection that is not taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        transport.close()
