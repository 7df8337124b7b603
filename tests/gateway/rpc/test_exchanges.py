"""The HTTP/2 endpoint behind Envoy, fed with bytes as Envoy would send them and some it never would."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.rpc.exchanges import GrpcServer, Step
from gateway.rpc.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from gateway.rpc.wire import Call, Kind, Method
from gateway.rpc.wire import frame as message
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo
from tests.gateway.rpc.peer import ALL, HELLO, Peer, block, request, turns


def serve(story: Callable[[Peer, GrpcServer], Awaitable[None]], methods: tuple[Method, ...] | None = None) -> None:
    async def run() -> None:
        server = GrpcServer(methods or Echo().methods(), max_message_bytes=MAX_BYTES)
        await story(Peer(server), server)
        assert server.in_flight == 0

    asyncio.run(run())


ECHO = SERVICE + "Echo"


def test_a_request_split_at_every_byte_is_answered_once() -> None:
    whole = HELLO + request(1, ECHO, message(b"split me"))

    async def story(peer: Peer, server: GrpcServer) -> None:
        for at in range(len(whole)):
            peer.say(whole[at : at + 1])
        await turns()
        headers, body = peer.answer(1)
        assert (headers[":status"], headers["grpc-status"], body) == ("200", "0", message(b"split me"))

    serve(story)


def test_all_requests_of_one_read_are_answered_in_one_write() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        await turns()
        writes: list[bytes] = []
        peer.wire.write = writes.append  # type: ignore[method-assign]
        peer.say(b"".join(request(n, ECHO, message(b"%d" % n)) for n in range(1, 101, 2)))
        await turns()
        assert len(writes) == 1
        peer.wire.said = writes[0]
        assert [peer.answer(n)[1] for n in range(1, 101, 2)] == [message(b"%d" % n) for n in range(1, 101, 2)]

    serve(story)


def test_padding_priority_and_continued_headers_change_nothing() -> None:
    fields = block(ECHO)
    padded = b"\x03" + bytes(5) + fields[:10] + bytes(3)

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, PADDED | PRIORITY, 1, padded))
        peer.say(frame(CONTINUATION, 0, 1, fields[10:20]) + frame(CONTINUATION, END_HEADERS, 1, fields[20:]))
        peer.say(
            frame(DATA, PADDED, 1, b"\x02" + message(b"x") + bytes(2)) + frame(DATA, PADDED | END_STREAM, 1, b"\0")
        )
        await turns()
        assert peer.answer(1)[1] == message(b"x")

    serve(story)


def test_a_ping_comes_back() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"87654321"))
        await turns()
        assert (PING, ACK, 0, b"12345678") in peer.frames()
        assert len([kind for kind in peer.kinds(0) if kind == PING]) == 1

    serve(story)


def test_an_answer_goes_out_as_far_as_the_windows_let_it_and_its_end_comes_last() -> None:
    narrow = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 10))

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(PREFACE + narrow + request(1, ECHO, message(bytes(100))))
        await turns()
        assert peer.kinds(1) == [HEADERS, DATA]
        peer.say(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 50)))
        await turns()
        assert peer.kinds(1) == [HEADERS, DATA, DATA]
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 1000)))
        await turns()
        assert peer.answer(1)[1] == message(bytes(100))

    serve(story)


def test_the_window_of_the_connection_holds_for_all_its_streams() -> None:
    wide = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 1 << 20))

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(PREFACE + wide)
        for number in (1, 3, 5):
            pieces = message(bytes(30_000))
            peer.say(frame(HEADERS, END_HEADERS, number, block(ECHO)) + frame(DATA, 0, number, pieces[:16_000]))
            peer.say(frame(DATA, END_STREAM, number, pieces[16_000:]))
        await turns()
        assert sum(len(payload) for kind, _, _, payload in peer.frames() if kind == DATA) == 65_535
        peer.say(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
        await turns()
        assert [len(peer.answer(number)[1]) for number in (1, 3, 5)] == [30_005] * 3

    serve(story)


def test_a_refusal_in_the_middle_of_a_request_tells_the_peer_to_stop_sending() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(ECHO)) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        await turns()
        assert peer.answer(1)[0]["grpc-status"] == "8"
        assert peer.kinds(1)[-1] == RST_STREAM
        peer.say(frame(DATA, 0, 1, bytes(100)) + request(3, ECHO, message(b"next")))
        await turns()
        assert peer.answer(3)[1] == message(b"next")

    serve(story)


def test_a_reset_ends_the_work_and_nothing_more_is_said_of_it() -> None:
    echo = Echo()

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        for number, name in ((1, "Wait"), (3, "WaitStream")):
            peer.say(request(number, SERVICE + name, message(b"")))
        await turns()
        assert echo.waiting == 2
        peer.say(frame(RST_STREAM, 0, 1, bytes(4)) + frame(RST_STREAM, 0, 3, bytes(4)))
        await turns()
        assert (echo.waiting, echo.cancelled) == (0, 2)
        assert peer.kinds(1) == []
        assert END_STREAM not in [flags & END_STREAM for _, flags, number, _ in peer.frames() if number == 3]

    serve(story, echo.methods())


def test_a_stream_reset_in_the_turn_it_began_leaves_no_work() -> None:
    echo = Echo()

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        peer.say(request(1, SERVICE + "WaitStream", message(b"")) + frame(RST_STREAM, 0, 1, bytes(4)))
        await turns()
        assert echo.waiting == 0

    serve(story, echo.methods())


def test_what_a_stream_sends_is_bounded_until_it_is_taken() -> None:
    gate = asyncio.Event()

    async def slow(call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        await gate.wait()
        async for payload in payloads:
            yield payload

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block("/s/m")))
        sent = message(bytes(10_000)) * 19
        for at in range(0, len(sent), 10_000):
            peer.say(frame(DATA, 0, 1, sent[at : at + 10_000]))
        await turns()
        assert WINDOW_UPDATE not in peer.kinds(1)  # nothing is given back before it is taken
        gate.set()
        peer.say(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1 << 20)))
        peer.say(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
        peer.say(frame(DATA, END_STREAM, 1, b""))
        await turns(200)
        assert peer.answer(1)[1] == sent

    serve(story, (Method("/s/m", Kind.BIDI_STREAM, slow),))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HELLO + b"\x00\x40\x01" + bytes(6),
        HELLO + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        HELLO + frame(HEADERS, END_HEADERS, 2, block(ECHO)),
        HELLO + frame(HEADERS, END_HEADERS, 1, b"\xbe"),
        HELLO + frame(HEADERS, 0, 1, b"") + frame(DATA, 0, 1, b""),
        HELLO + frame(CONTINUATION, END_HEADERS, 1, b""),
        HELLO + frame(SETTINGS, 0, 0, bytes(5)),
        HELLO + frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        HELLO + frame(HEADERS, ALL, 1, block(SERVICE + "Chat")) + frame(DATA, 0, 1, b"x"),
    ],
    ids=[
        "http/1", "longer than allowed", "longest", "even stream", "a table", "headers cut", "continues nothing",
        "settings", "window", "after the end",
    ],
)  # fmt: skip
def test_bytes_that_break_the_protocol_end_the_connection(data: bytes) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(data)
        await peer.check_is_sent_away()

    serve(story)


def test_a_lost_connection_ends_all_its_work() -> None:
    echo = Echo()

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + b"".join(request(n, SERVICE + "Wait", message(b"")) for n in range(1, 20, 2)))
        await turns()
        assert echo.waiting == 10
        peer.connection.connection_lost(None)
        await turns()
        assert echo.waiting == 0

    serve(story, echo.methods())


@pytest.mark.parametrize(
    ("waited_s", "status"), [(1.0, "4"), (0.0, "0"), (-5.0, "0")], ids=["long", "not", "clock_set_back"]
)
def test_the_deadline_counts_from_when_the_front_had_the_call(waited_s: float, status: str) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        for number in (1, 3):  # the second time its headers are known
            stamp = f"{int(1000 * (time.time() - waited_s)) % 60_000:05d}"
            peer.say(request(number, ECHO, message(b""), ("grpc-timeout", "900m"), stamp=stamp))
            await turns()
            assert peer.answer(number)[0]["grpc-status"] == status

    serve(story)


def test_a_handler_is_told_when_the_front_had_its_call() -> None:
    waited: list[float] = []

    async def note(call: Call, payload: bytes) -> bytes:
        assert call.arrived is not None
        waited.append(time.monotonic() - call.arrived)
        return payload

    async def story(peer: Peer, server: GrpcServer) -> None:
        stamp = f"{int(1000 * (time.time() - 5)) % 60_000:05d}"
        peer.say(HELLO + request(1, ECHO, message(b""), stamp=stamp) + request(3, ECHO, message(b"")))
        await turns()
        assert waited[0] >= 4.9 > waited[1] >= 0.0

    serve(story, (Method(ECHO, Kind.UNARY, note),))


def test_a_step_cancelled_while_it_waits_ends_cancelled_and_one_that_refuses_goes_on() -> None:
    told: list[object] = []

    async def stubborn() -> bytes:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return b"done"
        return b""

    async def story() -> None:
        waits = asyncio.get_running_loop().create_future()

        async def plain() -> bytes:
            await waits
            return b""

        for work in (plain(), stubborn()):
            step = Step(
                work,
                lambda payload, error: told.append(payload if error is None else type(error)),
                asyncio.get_running_loop(),
            )
            step.begin()
            await turns()
            step.cancel()
        await turns()

    asyncio.run(story())
    assert told == [asyncio.CancelledError, b"done"]


def test_timeouts_and_task_groups_work_inside_a_handler() -> None:
    never = asyncio.Event()

    async def handle(call: Call, payload: bytes) -> bytes:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        try:
            async with asyncio.timeout(0):
                await never.wait()
        except TimeoutError:
            return bytes(task.result() for task in tasks)
        return b"never"

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + request(1, "/s/m", message(b"")))
        while server.in_flight:
            await asyncio.sleep(0)
        await turns()
        assert peer.answer(1)[1] == message(b"\0\1\2")

    serve(story, (Method("/s/m", Kind.UNARY, handle),))


def test_a_deadline_reaches_a_handler_that_is_inside_a_timeout_of_its_own() -> None:
    async def handle(call: Call, payload: bytes) -> bytes:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()
        return b""

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + request(1, "/s/m", message(b""), ("grpc-timeout", "1m")))
        while server.in_flight:
            await asyncio.sleep(0.001)
        await turns()
        assert peer.answer(1)[0]["grpc-status"] == "4"

    serve(story, (Method("/s/m", Kind.UNARY, handle),))
