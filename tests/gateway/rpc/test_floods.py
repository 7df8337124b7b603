"""HTTP/2 frames that each are allowed, in numbers or an order that would cost others their turn or a call its end."""

import asyncio
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.header_block import MOST_FIELDS
from gateway.rpc.header_table import MOST_REWRITTEN
from gateway.rpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from gateway.rpc.http2_limits import GRANTS_AN_ANSWER, STRANGER
from gateway.rpc.wire import frame as message
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo
from tests.gateway.rpc.peer import ALL, HELLO, Peer, block, request, turns

ECHO, WAIT, CHAT = SERVICE + "Echo", SERVICE + "Wait", SERVICE + "Chat"
RESERVED = 1 << 31
WINDOW = 65_535


def serve(story: Callable[[Peer, GrpcServer], Awaitable[None]]) -> None:
    async def run() -> None:
        server = GrpcServer(Echo().methods(), max_message_bytes=MAX_BYTES, limits=STRANGER, max_calls=200)
        await story(Peer(server), server)

    asyncio.run(run())


def granted(number: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, struct.pack(">I", size))


def initial(size: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, size))


def asked(number: int, size: int) -> bytes:
    """Ask for an answer of so many bytes."""
    body = message(bytes(size - 5))
    pieces = [body[at : at + 16_000] for at in range(0, size, 16_000)]
    sent = [frame(DATA, END_STREAM if n == len(pieces) - 1 else 0, number, p) for n, p in enumerate(pieces)]
    return frame(HEADERS, END_HEADERS, number, block(ECHO)) + b"".join(sent)


@pytest.mark.parametrize(
    "noise",
    [
        granted(0, 1) * GRANTS_AN_ANSWER,
        granted(1, 1) * GRANTS_AN_ANSWER,
        frame(HEADERS, ALL, 3, block("/over")),
        frame(HEADERS, ALL, 3, block("/over")) + frame(DATA, 0, 3),
        frame(DATA, PADDED, 1, b"\xff" + bytes(255)),
    ],
    ids=["windows", "windows of a call", "headers of a call that is over", "data of one", "padding"],
)
def test_frames_that_ask_for_nothing_are_counted_whatever_their_kind(noise: bytes) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(WAIT)) + noise * (STRANGER.noise + 10))
        await peer.check_is_sent_away()

    serve(story)


@pytest.mark.parametrize("path", [ECHO, CHAT], ids=["an answer", "a piece of a stream"])
def test_who_pings_and_grants_more_window_for_every_answer_stays(path: str) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        heard = granted(0, 6) + frame(PING, 0, 0, bytes(8))  # as grpc-go does to measure its way
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(CHAT)))
        for number in range(3, 203, 2):
            if path == ECHO:
                peer.say(request(number, ECHO, message(b"x")))
            else:
                peer.say(frame(DATA, 0, 1, message(b"x")))
            await turns(3)
            peer.say(heard)
        assert peer.connection.noise <= 2
        peer.connection.connection_lost(None)
        await turns()

    serve(story)


def test_a_flood_ends_inside_the_read_that_it_came_in() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(PING, 0, 0, bytes(8)) * 10 * STRANGER.noise)
        assert peer.wire.is_closed
        assert Counter(peer.kinds(0))[PING] <= STRANGER.noise

    serve(story)


def test_a_flood_of_messages_on_one_stream_leaves_other_calls_their_turn() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        flood = frame(DATA, 0, 1, message(b"") * 3_000)
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(CHAT)) + flood + request(3, ECHO, message(b"x")))
        await turns()
        assert peer.answer(3)[1] == message(b"x")
        assert 0 < Counter(peer.kinds(1))[DATA] < 200
        await turns(1_000)
        assert Counter(peer.kinds(1))[DATA] == 3_000
        peer.connection.connection_lost(None)
        await turns()

    serve(story)


def test_a_request_of_very_many_fields_is_refused_and_costs_no_other() -> None:
    many = bytes([0x83]) * 4_000  # one byte each

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, ALL, 1, many) + request(3, ECHO, message(b"x")))
        await turns()
        assert peer.answer(1) == ({":status": "431"}, b"")
        assert peer.answer(3)[1] == message(b"x")

    serve(story)


@pytest.mark.parametrize("fields", [1, MOST_FIELDS + 1], ids=["in every call", "very often in one"])
def test_a_header_table_is_not_used_for_ever(fields: int) -> None:
    encoder = hpack.Encoder()
    encoder.encode([("x-a", "1")])

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, ALL, 1, bytes(hpack.Encoder().encode([("x-a", "1")]))))
        used = bytes(encoder.encode([("x-a", "1")])) * fields
        for number in range(3, 2 * MOST_REWRITTEN + 10, 2):
            peer.say(frame(HEADERS, ALL, number, used))
        assert peer.wire.is_closed
        assert len({number for kind, _, number, _ in peer.frames() if kind == HEADERS}) == (
            MOST_REWRITTEN if fields == 1 else 1
        )

    serve(story)


def test_padding_takes_no_window_for_good() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(CHAT)))
        padded = frame(DATA, PADDED, 1, b"\xff" + message(b"x") + bytes(255))
        count = 2 * peer.connection.receive_window // len(padded)
        for _ in range(count):
            peer.say(padded)
            await turns(1)
        assert not peer.wire.is_closed
        peer.say(frame(DATA, END_STREAM, 1))
        await turns(50)
        assert peer.answer(1)[1] == message(b"X") * count

    serve(story)


def test_the_reserved_bit_of_a_stream_counts_for_nothing() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        headers = frame(HEADERS, END_HEADERS, 1 | RESERVED, block(ECHO))
        peer.say(HELLO + headers + frame(DATA, END_STREAM, 1, message(b"x")))
        peer.say(request(3, ECHO, message(b"y")))
        await turns()
        assert (peer.answer(1)[1], peer.answer(3)[1]) == (message(b"x"), message(b"y"))

    serve(story)


@pytest.mark.parametrize(
    "data",
    [
        frame(SETTINGS, 0, 1),
        frame(PING, 0, 1, bytes(8)),
        frame(GOAWAY, 0, 1, bytes(8)),
        frame(RST_STREAM, 0, 0, bytes(4)),
        granted(1, 2**31 - 1),
        initial(2**31 - 1) + granted(1, 1),
    ],
    ids=["settings", "ping", "goaway", "reset", "window", "window by settings"],
)
def test_what_is_said_of_the_wrong_stream_or_window_ends_the_connection(data: bytes) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(ECHO)) + data)
        assert peer.wire.is_closed
        peer.connection.connection_lost(None)

    serve(story)


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(6, MAX_BYTES)),
    st.tuples(st.just("initial"), st.integers(0, 100_000)),
    st.tuples(st.just("connection"), st.integers(1, 100_000)),
    st.tuples(st.integers(0, 3), st.integers(1, 100_000)),
)


@settings(deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
def test_whatever_windows_a_peer_opens_and_shuts_they_hold_and_every_answer_comes_whole(
    steps: list[tuple[str | int, int]],
) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        sizes: dict[int, int] = {}
        own: Counter[int] = Counter()
        all_of_them, first = WINDOW, WINDOW
        peer.say(HELLO)
        for what, size in steps:
            if what == "ask":
                number = 2 * len(sizes) + 1
                sizes[number], own[number] = size, first
                peer.say(asked(number, size))
            elif what == "initial":
                own.update(dict.fromkeys(sizes, size - first))
                first = size
                peer.say(initial(size))
            elif what == "connection":
                all_of_them += size
                peer.say(granted(0, size))
            elif (number := 2 * int(what) + 1) in sizes:
                own[number] += size
                peer.say(granted(number, size))
            await turns(3)
            sent: Counter[int] = Counter()
            for kind, _, number, payload in peer.frames():
                sent.update({number: len(payload)} if kind == DATA else {})
            assert sum(sent.values()) <= all_of_them
            for number, size in sizes.items():
                assert sent[number] <= size
                is_stuck = sent[number] < size and sent[number] < own[number] and sum(sent.values()) < all_of_them
                assert not is_stuck
        peer.say(initial(1 << 20) + granted(0, 1 << 30))
        await turns(3)
        assert {number: len(peer.answer(number)[1]) for number in sizes} == sizes
        assert not peer.connection.blocked

    serve(story)
