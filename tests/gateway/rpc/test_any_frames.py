"""Whatever frames come, in whatever order: no error of ours, only legal frames in answer, and nothing left over."""

import asyncio
import struct

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    HEARD,
    INITIAL_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.wire import frame as message
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo
from tests.gateway.rpc.peer import HELLO, Peer, turns

METHODS = ("Echo", "Wait", "Fail", "Count", "WaitStream", "CountThenFail", "Chat", "Nope")
EXTRA = (
    ("grpc-timeout", "1n"),
    ("grpc-timeout", "9S"),
    ("grpc-encoding", "gzip"),
    ("te", "trailers"),
    ("x", "y" * 200),
)
NUMBERS = st.sampled_from([1, 3, 5, 7, 9])
HOLES = st.binary(max_size=12)
BODIES = st.one_of(
    st.sampled_from([b"", message(b"4"), message(b"bug"), message(b"z" * 30_000), message(b"7", compress=True)]),
    st.builds(lambda size: message(b"x") * size, st.integers(0, 40)),
    HOLES,
)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[object, ...]:
    """One thing that a caller may do, told apart by its first word."""
    what = draw(st.sampled_from(["begin"] * 4 + ["data"] * 4 + ["window", "settings", "reset", "raw", "leave", "turn"]))
    number = draw(NUMBERS)
    if what == "begin":
        extra = draw(st.lists(st.sampled_from(EXTRA), max_size=2, unique=True))
        return what, number, draw(st.sampled_from(METHODS)), tuple(extra), draw(st.integers(0, 7)), draw(st.booleans())
    if what == "data":
        return what, number, draw(BODIES), draw(st.integers(0, 3))
    if what == "raw":
        kind, flags = draw(st.integers(0, 12)), draw(st.integers(0, 255))
        return what, draw(st.sampled_from([0, 1, 2, 3, 99])), kind, flags, draw(HOLES)
    return what, draw(st.sampled_from([0, number])), draw(st.sampled_from([0, 1, 100, 70_000]))


def written(step: tuple[object, ...], encoder: hpack.Encoder) -> bytes:
    what, number = step[0], step[1]
    assert isinstance(number, int)
    if what == "begin":
        _, _, name, extra, how, is_last = step
        assert isinstance(how, int)
        fields = [(":method", "POST"), (":path", f"{SERVICE}{name}"), ("content-type", "application/grpc"), *extra]  # type: ignore[misc]
        block = bytes(encoder.encode(fields))
        before = b"\x02" if how & 1 else b""
        before += bytes(5) if how & 2 else b""
        after = bytes(2) if how & 1 else b""
        flags = (PADDED if how & 1 else 0) | (PRIORITY if how & 2 else 0) | (END_STREAM if is_last else 0)
        if how & 4:
            begun = frame(HEADERS, flags, number, before + block[:9] + after)
            return begun + frame(CONTINUATION, END_HEADERS, number, block[9:])
        return frame(HEADERS, flags | END_HEADERS, number, before + block + after)
    if what == "data":
        _, _, body, how = step
        assert isinstance(body, bytes) and isinstance(how, int)
        pieces = [body[at : at + 16_000] for at in range(0, max(1, len(body)), 16_000)]
        frames = [frame(DATA, PADDED if how & 1 else 0, number, b"\0" + p if how & 1 else p) for p in pieces[:-1]]
        last = pieces[-1]
        flags = (END_STREAM if how & 2 else 0) | (PADDED if how & 1 else 0)
        return b"".join(frames) + frame(DATA, flags, number, b"\x01" + last + b"\0" if how & 1 else last)
    if what == "raw":
        _, _, kind, flags, payload = step
        assert isinstance(kind, int) and isinstance(flags, int) and isinstance(payload, bytes)
        return frame(kind, flags, number, payload)
    size = step[2]
    assert isinstance(size, int)
    if what == "window":
        return frame(WINDOW_UPDATE, 0, number, struct.pack(">I", size))
    if what == "settings":
        return frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, size))
    if what == "reset":
        return frame(RST_STREAM, 0, number, bytes(4))
    return frame(PING, ACK, 0, HEARD) if what == "leave" else b""


def check(peer: Peer) -> None:
    """Hold what the server said to what a server may say."""
    decoder, over, begun, was_told, last = hpack.Decoder(), set[int](), set[int](), [], 1 << 31
    frames = peer.frames()
    assert frames[0][0] == SETTINGS and not frames[0][1] & ACK
    for kind, flags, number, payload in frames:
        assert len(payload) <= FRAME_BYTES
        assert (number == 0) == (kind in (SETTINGS, PING, GOAWAY)) or kind == WINDOW_UPDATE
        assert kind in (DATA, HEADERS, CONTINUATION, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE)
        if kind == HEADERS:
            decoder.decode(payload)
            assert flags & END_HEADERS and number not in over and (number not in begun or flags & END_STREAM)
            begun.add(number)
        elif kind == DATA:
            assert number in begun and number not in over
        elif kind == WINDOW_UPDATE:
            assert struct.unpack(">I", payload)[0] > 0 and number not in over
        elif kind == GOAWAY:
            named, code = struct.unpack(">II", payload)
            assert named <= last
            last = named
            was_told.append(code)
        if (kind in (HEADERS, DATA) and flags & END_STREAM) or kind == RST_STREAM:
            over.add(number)
    assert was_told in ([], [0], [0, 0], [0, 0, 1], [0, 1], [1])


@settings(deadline=None)
@given(steps=st.lists(spoken(), max_size=14), cuts=st.lists(st.integers(1, 400), max_size=3))
def test_whatever_comes_the_answer_is_legal_and_nothing_is_left(
    steps: list[tuple[object, ...]], cuts: list[int]
) -> None:
    async def story() -> None:
        wrong: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        echo = Echo()
        server = GrpcServer(echo.methods(), max_message_bytes=MAX_BYTES, limits=STRANGER, max_calls=4)
        peer, encoder = Peer(server), hpack.Encoder()
        peer.say(HELLO)
        for step in steps:
            if step[0] == "leave":
                peer.connection.leave()
            if step[0] == "turn":
                await turns(2)
            data = written(step, encoder)
            at = 0
            for cut in cuts:
                peer.say(data[at : at + cut])
                at += cut
            peer.say(data[at:])
        await turns(20)
        check(peer)
        peer.connection.connection_lost(None)
        await turns(20)
        assert (server.in_flight, echo.waiting, len(server.connections), wrong) == (0, 0, 0, [])
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())
