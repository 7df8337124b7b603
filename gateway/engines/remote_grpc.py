"""What remote engines over gRPC share: connections, credentials, and their errors in our words."""

import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from gateway.engines.ports import Broken, Busy, Endpoint, EngineProblem, Forgotten, InputRefused, OutOfTime, Unreachable

T = TypeVar("T")

MAX_MESSAGE_BYTES = 32 << 20  # what trtllm-serve takes
UNARY_TIMEOUT_S = 5.0  # for questions beside scoring: metadata, health, aborts
_KINDS: dict[grpc.StatusCode, type[EngineProblem]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InputRefused,
    grpc.StatusCode.OUT_OF_RANGE: InputRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.DEADLINE_EXCEEDED: OutOfTime,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.NOT_FOUND: Forgotten,  # the model was unloaded there: another replica may have it
}
# A message over somebody's limit, in the words of gRPC's core, Go, Java, .NET and Node; tonic says OUT_OF_RANGE.
_TOO_LARGE = re.compile(r"message\b.*\b(larger than max|exceeds (the )?maximum)", re.IGNORECASE)
_ANSWER_TOO_LARGE = "CLIENT: Received message"  # for us: no input explains 32 MiB of scores


class Channels:
    """Connections to one server, used in turn: one HTTP/2 connection caps how many calls go at once."""

    def __init__(self, endpoint: Endpoint) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Without a pool of its own every channel to one address shares one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        self._metadata = (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()
        credentials = None if endpoint.ca is None else grpc.ssl_channel_credentials(endpoint.ca)
        self.channels = [
            grpc.aio.insecure_channel(endpoint.address, options)
            if credentials is None
            else grpc.aio.secure_channel(endpoint.address, credentials, options)
            for _ in range(endpoint.connections)
        ]
        self._turn = itertools.cycle(range(len(self.channels)))

    def stubs(self, make: Callable[[grpc.aio.Channel], T]) -> "Stubs[T]":
        """Make one stub a connection, once."""
        return Stubs([make(channel) for channel in self.channels], self._turn)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return self._metadata

    async def close(self) -> None:
        """Close every connection; open calls are cancelled."""
        for channel in self.channels:
            await channel.close(None)


class Stubs(list[T]):
    """The same stub on every connection of a server."""

    def __init__(self, stubs: list[T], turn: Any) -> None:
        super().__init__(stubs)
        self._turn = turn

    def next(self) -> T:
        """Return the stub whose turn it is."""
        chosen: T = self[next(self._turn)]
        return chosen


def problem_of(error: grpc.RpcError) -> EngineProblem:
    """Say in our words why a call failed."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)
    said = " ".join(str(details or "no details").split())
    kind = _KINDS.get(code, Broken)
    if kind is Busy and _TOO_LARGE.search(said):
        kind = Broken if _ANSWER_TOO_LARGE in said else InputRefused
    return kind(f"{code.name}: {said[:160]}")


async def ask(call: Awaitable[T]) -> T:
    """Await one unary call; raises EngineProblem."""
    try:
        return await call
    except grpc.RpcError as error:
        raise problem_of(error) from error
    except grpc.aio.UsageError as error:  # the channel is closed
        raise Unreachable(str(error)) from error
