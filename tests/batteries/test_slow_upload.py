"""A caller who begins a request and never ends it; on the portable front, whose library would wait for ever."""

import asyncio

import grpc
import pytest

from gateway.rpc.grpcio import GrpcioFront
from gateway.rpc.wire import frame
from tests.batteries.echo import SERVICE, Echo
from tests.batteries.http2 import Caller


@pytest.mark.parametrize("method", ["Echo", "Count"], ids=["unary", "server stream"])
@pytest.mark.parametrize("begun", [b"", b"\0\0", frame(b"a whole one")[:-1]], ids=["nothing", "prefix", "most of it"])
def test_a_request_that_does_not_come_is_given_up_and_the_next_is_served(method: str, begun: bytes) -> None:
    def slow(port: int) -> None:
        with Caller(port) as caller:
            stream = caller.open(SERVICE + method)
            if begun:
                caller.send(stream, begun, end=False)
            answer = caller.finish(stream)
            assert answer.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            # With a deadline of its own: this limit is shorter than a busy machine may take to read a call.
            answer = caller.call(SERVICE + "Echo", [frame(b"next")], ("grpc-timeout", "60S"))
            assert answer.body == frame(b"next")

    async def run() -> None:
        front = GrpcioFront(Echo().methods(), address="127.0.0.1:0", upload_s=0.05)
        port = await front.start()
        try:
            await asyncio.to_thread(slow, port)
            assert front.in_flight == 0
        finally:
            await front.drain(0.0)  # a server of grpcio that nobody stopped keeps its process from ending

    asyncio.run(run())
