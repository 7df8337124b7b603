"""What Envoy refuses by itself, and what callers cannot make it believe."""

import asyncio
from collections.abc import Awaitable
from functools import partial

import grpc
import grpc.aio
import pytest

from gateway.rpc.bootstrap import Listen
from gateway.rpc.direct import DirectFront
from gateway.rpc.envoy import EnvoyFront, is_installed
from gateway.rpc.local import SERVICE as LOCAL_SERVICE
from gateway.rpc.status import PUSHBACK_MS
from gateway.rpc.wire import ARRIVED, Call, Kind, Method
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo

PATIENCE_S = 20.0


needs_envoy = pytest.mark.skipif(not is_installed(), reason="Envoy is not installed here")


@needs_envoy
def test_what_a_caller_says_of_its_arrival_counts_for_nothing() -> None:
    async def story() -> None:
        front = EnvoyFront(Listen("127.0.0.1:0", MAX_BYTES), Echo().methods())
        port = await front.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                echo = channel.unary_unary(SERVICE + "Echo")
                said = ((ARRIVED.decode(), "00000"),)  # a long time ago
                assert await echo(b"x", timeout=5.0, metadata=said, wait_for_ready=True) == b"x"
        finally:
            await front.close()

    asyncio.run(story())


@needs_envoy
@pytest.mark.parametrize("is_tcp", [False, True], ids=["by Envoy", "by us"])
def test_calls_beyond_the_limit_are_refused_with_a_time_to_come_again_and_room_is_given_back(is_tcp: bool) -> None:
    async def story() -> None:
        front = EnvoyFront(Listen("127.0.0.1:0", MAX_BYTES, max_calls=2, is_tcp=is_tcp), Echo().methods())
        port = await front.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                wait = channel.unary_unary(SERVICE + "Wait")
                calls = [asyncio.ensure_future(_ended(wait(b"", timeout=PATIENCE_S))) for _ in range(5)]
                # The two that were let in wait for ever; the others end.
                refused = [await ended for _, ended in zip(range(3), asyncio.as_completed(calls), strict=False)]
                for error in refused:
                    assert error is not None
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert ("grpc-retry-pushback-ms", str(PUSHBACK_MS)) in list(error.trailing_metadata())
                waiting = [call for call in calls if not call.done()]
                assert len(waiting) == 2
                for call in waiting:
                    call.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                echo = channel.unary_unary(SERVICE + "Echo")
                async with asyncio.timeout(PATIENCE_S):
                    while await _ended(echo(b"x", timeout=PATIENCE_S)) is not None:
                        pass
        finally:
            await front.close()

    asyncio.run(story())


async def _ended(call: Awaitable[bytes]) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.mark.parametrize(
    "name", [pytest.param("envoy", marks=needs_envoy), pytest.param("envoy-tcp", marks=needs_envoy), "direct"]
)
def test_a_rollback_finds_room_where_callers_have_taken_all_there_is(name: str) -> None:
    async def leave(call: Call, payload: bytes) -> bytes:
        return payload

    async def story() -> None:
        echo = Echo()
        methods = (*echo.methods(), Method(f"/{LOCAL_SERVICE}/RollBack", Kind.UNARY, leave))
        front: EnvoyFront | DirectFront
        if name.startswith("envoy"):
            listen = Listen("127.0.0.1:0", MAX_BYTES, max_calls=1, is_tcp=name == "envoy-tcp")
            front = EnvoyFront(listen, methods)
            close = front.close
        else:
            front = DirectFront(methods, address="127.0.0.1:0", max_message_bytes=MAX_BYTES, max_calls=1)
            close = partial(front.drain, 0.0)
        port = await front.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                wait = channel.unary_unary(SERVICE + "Wait")
                calls = [asyncio.ensure_future(_ended(wait(b"", timeout=PATIENCE_S))) for _ in range(2)]
                for refused in asyncio.as_completed(calls):
                    assert (error := await refused) is not None
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    break
                roll_back = channel.unary_unary(f"/{LOCAL_SERVICE}/RollBack")
                assert await roll_back(b"order", timeout=PATIENCE_S) == b"order"
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            assert await asyncio.to_thread(front.refused) == 1
        finally:
            await close()

    asyncio.run(story())
