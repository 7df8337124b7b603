"""A method table that shows a front at work."""

import asyncio
from collections.abc import AsyncIterator

from gateway.errors import Overloaded, PromptRejected
from gateway.rpc.wire import Call, Kind, Method

MAX_BYTES = 65_536
SERVICE = "/test.Echo/"


class Echo:
    """Handlers that give back what they see."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.waiting = 0
        self._changed = asyncio.Event()

    def methods(self) -> tuple[Method, ...]:
        table = {
            "Echo": (Kind.UNARY, self.echo),
            "Describe": (Kind.UNARY, self.describe),
            "Fail": (Kind.UNARY, self.fail),
            "Wait": (Kind.UNARY, self.wait),
            "Cancelled": (Kind.UNARY, self.await_cancelled),
            "Waiting": (Kind.UNARY, self.await_waiting),
            "Interrupted": (Kind.UNARY, self.interrupted),
            "Count": (Kind.SERVER_STREAM, self.count),
            "CountThenFail": (Kind.SERVER_STREAM, self.count_then_fail),
            "WaitStream": (Kind.SERVER_STREAM, self.wait_stream),
            "Chat": (Kind.BIDI_STREAM, self.chat),
        }
        return tuple(Method(SERVICE + name, kind, handler) for name, (kind, handler) in table.items())

    async def echo(self, call: Call, payload: bytes) -> bytes:
        return payload

    async def describe(self, call: Call, payload: bytes) -> bytes:
        text = call.metadata.get("x-text", "")
        binary = call.metadata.get("x-raw-bin", b"")
        assert isinstance(text, str)
        assert isinstance(binary, bytes)
        has_deadline = b"deadline" if call.deadline is not None else b"none"
        return b"|".join([text.encode(), binary, has_deadline, call.identity.encode()])

    async def fail(self, call: Call, payload: bytes) -> bytes:
        if payload == b"bug":
            raise ValueError("a secret of the implementation")
        if payload == b"overloaded":
            raise Overloaded("s", 125)
        raise PromptRejected(payload.decode())

    async def interrupted(self, call: Call, payload: bytes) -> bytes:
        raise asyncio.CancelledError

    def _tell(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def _wait(self) -> None:
        self.waiting += 1
        self._tell()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
            self.cancelled += 1
            self._tell()

    async def wait(self, call: Call, payload: bytes) -> bytes:
        await self._wait()
        return b""

    async def await_cancelled(self, call: Call, payload: bytes) -> bytes:
        while self.cancelled < int(payload):
            await self._changed.wait()
        return b"%d" % self.waiting

    async def await_waiting(self, call: Call, payload: bytes) -> bytes:
        while self.waiting < int(payload):
            await self._changed.wait()
        return b"%d" % self.cancelled

    async def count(self, call: Call, payload: bytes) -> AsyncIterator[bytes]:
        for number in range(int(payload)):
            yield b"%d" % number

    async def count_then_fail(self, call: Call, payload: bytes) -> AsyncIterator[bytes]:
        async for number in self.count(call, payload):
            yield number
        raise PromptRejected("no more")

    async def wait_stream(self, call: Call, payload: bytes) -> AsyncIterator[bytes]:
        yield b"first"
        await self._wait()

    async def chat(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for payload in payloads:
            yield payload.upper()
