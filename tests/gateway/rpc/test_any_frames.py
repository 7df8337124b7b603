"""Whatever frames come, in whatever order: no error of ours, only legal frames in answer, and nothing left over."""

import asyncio
import struct
from dataclasses import dataclass

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
HOLES = st.binary(max_size=12)
BODIES = st.one_of(
    st.sampled_from([b"", message(b"4"), message(b"bug"), message(b"z" * 30_000), message(b"7", compress=True)]),
    st.builds(lambda size: message(b"x") * size, st.integers(0, 40)),
    HOLES,
)


WHAT = st.sampled_from(["begin"] * 6 + ["data"] * 8 + ["window"] * 2 + ["settings", "reset", "raw", "leave", "turn"])


@dataclass(frozen=True)
class Step:
    """One thing that a caller does, with everything it may take."""

    what: str
    which: int
    method: str
    extra: tuple[tuple[str, str], ...]
    how: int
    is_last: bool
    body: bytes
    size: int
    kind: int
    flags: int


STEPS = st.builds(
    Step,
    what=WHAT,
    which=st.integers(0, 9),
    method=st.sampled_from(METHODS),
    extra=st.lists(st.sampled_from(EXTRA), max_size=2, unique=True).map(tuple),
    how=st.integers(0, 7),
    is_last=st.booleans(),
    body=BODIES,
    size=st.sampled_from([0, 1, 100, 70_000]),
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
)


class Caller:
    """Writes steps as frames: mostly of streams that it began and has not ended."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()
        self._next = 1
        self._open: list[int] = []

    def frames(self, step: Step) -> bytes:
        if step.what == "begin":
            return self._begin(step)
        if step.what == "raw":
            return frame(step.kind, step.flags, step.which, step.body[:20])
        if step.what == "settings":
            return frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, step.size))
        if step.what == "leave":
            return frame(PING, ACK, 0, HEARD)
        if step.what == "window" and step.is_last:
            return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", step.size))
        if not self._open or step.what == "turn":
            return b""
        number = self._open[step.which % len(self._open)]
        if step.what == "window":
            return frame(WINDOW_UPDATE, 0, number, struct.pack(">I", step.size))
        if step.what == "reset" or step.is_last:
            self._open.remove(number)
        return frame(RST_STREAM, 0, number, bytes(4)) if step.what == "reset" else _data(number, step)

    def _begin(self, step: Step) -> bytes:
        fields = [
            (":method", "POST"),
            (":path", SERVICE + step.method),
            ("content-type", "application/grpc"),
            *step.extra,
        ]
        block = bytes(self._encoder.encode([*fields, *step.extra]))
        number, self._next = self._next, self._next + 2
        if not step.is_last or step.which:
            self._open.append(number)
        before = (b"\x02" if step.how & 1 else b"") + (bytes(5) if step.how & 2 else b"")
        after = bytes(2) if step.how & 1 else b""
        flags = (PADDED if step.how & 1 else 0) | (PRIORITY if step.how & 2 else 0)
        flags |= END_STREAM if step.is_last and not step.which else 0
        if step.how & 4:
            begun = frame(HEADERS, flags, number, before + block[:9] + after)
            return begun + frame(CONTINUATION, END_HEADERS, number, block[9:])
        return frame(HEADERS, flags | END_HEADERS, number, before + block + after)


def _data(number: int, step: Step) -> bytes:
    is_padded = bool(step.how & 1)
    pieces = [step.body[at : at + 16_000] for at in range(0, max(1, len(step.body)), 16_000)]
    written = b""
    for place, piece in enumerate(pieces):
        flags = (END_STREAM if step.is_last and place == len(pieces) - 1 else 0) | (PADDED if is_padded else 0)
        written += frame(DATA, flags, number, b"\x01" + piece + b"\0" if is_padded else piece)
    return written


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
@given(steps=st.lists(STEPS, min_size=8, max_size=40), cuts=st.lists(st.integers(1, 400), max_size=3))
def test_whatever_comes_the_answer_is_legal_and_nothing_is_left(steps: list[Step], cuts: list[int]) -> None:
    async def story() -> None:
        wrong: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        echo = Echo()
        server = GrpcServer(echo.methods(), max_message_bytes=MAX_BYTES, limits=STRANGER, max_calls=4)
        peer, caller = Peer(server), Caller()
        peer.say(HELLO)
        for step in steps:
            if step.what == "leave":
                peer.connection.leave()
            if step.what == "turn":
                await turns(2)
            data = caller.frames(step)
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
