"""What callers can keep of a front's places and memory by beginning much and ending little."""

import asyncio
import contextlib
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable

from gateway.rpc.direct import DirectFront
from gateway.rpc.exchanges import GRACE_S, UPLOAD_S, GrpcServer
from gateway.rpc.header_block import write_block
from gateway.rpc.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.local import LOCAL, LOCAL_CALLS
from gateway.rpc.wire import Call, Kind, Method
from gateway.rpc.wire import frame as message
from tests.batteries.echo import SERVICE, Echo
from tests.gateway.rpc.peer import HELLO, Peer, block, request, turns

ECHO, WAIT, ORDER = SERVICE + "Echo", SERVICE + "Wait", LOCAL + "RollBack"


async def obey(call: Call, payload: bytes) -> bytes:
    return payload


def serve(story: Callable[[Peer, GrpcServer], Awaitable[None]]) -> None:
    async def run() -> None:
        methods = (*Echo().methods(), Method(ORDER, Kind.UNARY, obey))
        server = GrpcServer(methods, limits=STRANGER, max_calls=3)
        peer = Peer(server)
        peer.say(HELLO)
        await story(peer, server)
        peer.connection.connection_lost(None)
        await turns()

    asyncio.run(run())


def begun(number: int, path: str, *extra: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS, number, block(path, *extra))


def test_an_order_finds_room_beside_orders_that_only_began() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        all_there_is = [begun(2 * n + 1, WAIT if n < 3 else ORDER) for n in range(3 + LOCAL_CALLS)]
        peer.say(b"".join(all_there_is))
        operator = Peer(server)
        operator.say(HELLO + request(1, ECHO, message(b"")) + request(3, ORDER, message(b"leave")))
        await turns()
        assert operator.answer(1)[0]["grpc-status"] == "8"
        assert operator.answer(3)[1] == message(b"leave")
        assert peer.answer(7)[0]["grpc-status"] == "8"  # of the orders it was the first
        assert not peer.kinds(1)
        assert server.in_flight == 2 + LOCAL_CALLS
        peer.say(frame(DATA, END_STREAM, 9, message(b"late")))
        await turns()
        assert peer.answer(9)[1] == message(b"late")
        operator.connection.connection_lost(None)

    serve(story)


def test_who_holds_connections_without_calls_keeps_nobody_out_and_busy_ones_stay() -> None:
    async def ended(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass

    async def run() -> None:
        front = DirectFront(Echo().methods(), address="127.0.0.1:0", max_connections=2)
        port = await front.start()
        busy, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO + request(1, WAIT, message(b"")))
        while not front.in_flight:
            await asyncio.sleep(0)
        idle, _ = await asyncio.open_connection("127.0.0.1", port)
        assert await idle.readexactly(9)
        late, last = await asyncio.open_connection("127.0.0.1", port)
        await ended(idle)
        last.write(HELLO + request(1, WAIT, message(b"")))
        while front.in_flight < 2:
            await asyncio.sleep(0)
        too_late, _ = await asyncio.open_connection("127.0.0.1", port)
        await ended(too_late)
        assert front.in_flight == 2
        await front.drain(0.0)
        await ended(busy)
        await ended(late)

    asyncio.run(run())


def test_a_gateway_opens_as_many_files_as_it_may() -> None:
    asks = (
        "import resource as r; from gateway.process import open_more_files; kind = r.RLIMIT_NOFILE;"
        "_, most = r.getrlimit(kind); r.setrlimit(kind, (128, most)); open_more_files();"
        "assert r.getrlimit(kind) == (most, most)"
    )
    subprocess.run([sys.executable, "-c", asks], check=True)


def test_a_request_has_to_come_in_time_whatever_deadline_it_names() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(begun(1, WAIT, ("grpc-timeout", "9H")) + begun(3, WAIT, ("grpc-timeout", "1S")) + begun(5, WAIT))
        limits = [(exchange.give_up_at or 0.0) - exchange.began for exchange in server.running]
        assert [round(limit, 3) for limit in limits] == [UPLOAD_S, 1 + GRACE_S, UPLOAD_S]
        peer.say(b"".join(frame(DATA, END_STREAM, number, message(b"")) for number in (1, 3, 5)))
        after = [exchange.give_up_at and exchange.give_up_at - exchange.began for exchange in server.running]
        assert [limit and round(limit, 3) for limit in after] == [9 * 3600 + GRACE_S, 1 + GRACE_S, None]

    serve(story)


def test_long_headers_that_differ_each_time_are_not_kept() -> None:
    count, size = 100, 12_000

    async def story(peer: Peer, server: GrpcServer) -> None:
        tracemalloc.start()
        for n in range(count):
            fields = (b":method", b"POST"), (b":path", b"/over"), (b"content-type", b"application/grpc")
            long = write_block((*fields, (b"x-long", b"%d" % n + b"a" * size)))[1:]
            peer.say(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, long))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peer.answer(2 * count - 1)[0]["grpc-status"] == "12"
        assert kept < count * size / 4

    serve(story)
