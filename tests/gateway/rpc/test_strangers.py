"""HTTP/2 as callers speak it who have no Envoy before them: their header tables, and what they may not do."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc import http2_frames
from gateway.rpc.direct import DirectFront
from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.header_block import BlockBroken, leaves_no_trace, read_block
from gateway.rpc.header_table import HeaderTable
from gateway.rpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.wire import frame as message
from gateway.settings import GatewaySettings
from protos.contract.fields import FieldInvalid
from tests.batteries.echo import MAX_BYTES, SERVICE, Echo
from tests.gateway.rpc.peer import HELLO, Peer, block, request, turns

ECHO, WAIT, CHAT = SERVICE + "Echo", SERVICE + "Wait", SERVICE + "Chat"
PATHS = ("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key")
SETTINGS = {"deployment": "d", "worker_sockets": ["w"], **dict.fromkeys(PATHS, "x")}
CANCEL = struct.pack(">I", 8)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":path", b"te", b"grpc-timeout", b"x-odd"]),
        st.sampled_from([b"", b"/", b"trailers", b"100m"]) | st.binary(max_size=40),
    ),
    max_size=6,
)


def serve(story: Callable[[Peer, GrpcServer], Awaitable[None]], echo: Echo | None = None) -> None:
    async def run() -> None:
        server = GrpcServer((echo or Echo()).methods(), max_message_bytes=MAX_BYTES, limits=STRANGER, max_calls=200)
        await story(Peer(server), server)
        assert server.in_flight == 0

    asyncio.run(run())


@given(requests=st.lists(st.tuples(FIELDS, st.sampled_from([None, 0, 100, 4096])), max_size=6))
def test_blocks_mean_what_their_writer_meant_whatever_table_it_keeps(
    requests: list[tuple[list[tuple[bytes, bytes]], int | None]],
) -> None:
    encoder, table = hpack.Encoder(), HeaderTable(1 << 16)
    promised = 4096
    for fields, size in requests:
        if size is not None and size <= promised:
            encoder.header_table_size = size
            promised = min(promised, size or promised)
        if encoder.header_table_size == 0:
            promised = 0
        assert read_block(table.plain(bytes(encoder.encode(fields)))) == fields


@given(block=st.binary(max_size=40))
def test_what_leaves_no_trace_means_the_same_to_a_table_that_knows_nothing(block: bytes) -> None:
    if leaves_no_trace(block):
        decoder = hpack.Decoder()
        try:
            told = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(BlockBroken):
                read_block(block)
        else:
            assert read_block(block) == told


def test_a_table_that_inflates_headers_ends_the_connection() -> None:
    encoder = hpack.Encoder()
    bomb = bytes(encoder.encode([("x-big", "a" * 4_000)])) + bytes(encoder.encode([("x-big", "a" * 4_000)])) * 1_000

    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, bomb))
        await turns()
        assert peer.wire.is_closed
        peer.connection.connection_lost(None)

    serve(story)


def test_nobody_says_when_the_call_came_or_whose_certificate_it_bears() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        forged = ("x-forwarded-client-cert", "By=x;URI=spiffe://forged")
        peer.say(HELLO + request(1, SERVICE + "Describe", message(b""), ("grpc-timeout", "1S"), forged, stamp="00000"))
        await turns()
        headers, body = peer.answer(1)
        assert headers["grpc-status"] == "0"
        assert b"forged" not in body

    serve(story)


@pytest.mark.parametrize(
    "fields",
    [
        [(":path", WAIT)],
        [(":method", "GET")],
        [("x-a", "1"), (":scheme", "http")],
        [(":status", "200")],
        [("X-Capital", "1")],
        [("x a", "1")],
        [("", "1")],
        [("x-a", "1\r\nauthorization: Bearer other")],
        [("x-a", "\0")],
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("te", "gzip")],
    ],
    ids=[
        "two paths", "two methods", "pseudo behind", "of answers", "capitals", "a space", "no name", "two lines", "nul",
        "connection", "chunks", "te",
    ],
)  # fmt: skip
def test_a_request_that_http2_forbids_is_refused_and_costs_no_other(fields: list[tuple[str, str]]) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + request(1, ECHO, message(b"x"), *fields) + request(3, ECHO, message(b"y")))
        assert server.in_flight == 1
        await turns()
        assert peer.answer(1) == ({":status": "400"}, b"")
        assert peer.answer(3)[1] == message(b"y")

    serve(story)


def test_no_value_hides_another_of_its_name() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        twice = ("x-text", "first"), ("x-text", "second")
        peer.say(HELLO + request(1, SERVICE + "Describe", message(b""), *twice))
        times = ("grpc-timeout", "1n"), ("grpc-timeout", "1H")
        peer.say(request(3, SERVICE + "Describe", message(b""), *times))
        await turns()
        assert peer.answer(1)[1][5:].startswith(b"first,second|")
        assert peer.answer(3)[0]["grpc-status"] == "13"

    serve(story)


def test_calls_beyond_the_limit_are_refused_unread_and_room_is_given_back() -> None:
    echo = Echo()

    async def story(peer: Peer, server: GrpcServer) -> None:
        server.max_calls = 2
        peer.say(HELLO + b"".join(request(number, WAIT, message(b"")) for number in (1, 3, 5)))
        headers, _ = peer.answer(5)  # written before any work begins
        assert (headers["grpc-status"], headers["grpc-retry-pushback-ms"]) == ("8", "100")
        assert echo.waiting == 0
        await turns()
        assert echo.waiting == 2
        peer.say(frame(RST_STREAM, 0, 1, CANCEL) + request(7, ECHO, message(b"next")))
        await turns()
        assert peer.answer(7)[1] == message(b"next")
        peer.connection.connection_lost(None)
        await turns()

    serve(story, echo)


def test_a_refused_call_is_never_a_stream_and_is_told_to_stop_only_where_it_goes_on() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        server.max_calls = 0
        peer.say(HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(ECHO)) + request(3, ECHO, message(b"x")))
        assert peer.kinds(1) == [HEADERS]
        assert peer.kinds(3) == [HEADERS, RST_STREAM]
        assert peer.answer(1) == peer.answer(3)
        server.max_calls = 1
        peer.say(frame(DATA, END_STREAM, 1, b"never asked for") + request(5, ECHO, message(b"now")))
        await turns()
        assert peer.answer(5)[1] == message(b"now")

    serve(story)


def test_more_streams_than_a_connection_may_have_are_refused_one_by_one() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        most = STRANGER.streams
        peer.say(HELLO + b"".join(request(2 * n + 1, WAIT, message(b"")) for n in range(most + 1)))
        await turns()
        assert server.in_flight == most
        assert [payload for kind, _, number, payload in peer.frames() if (kind, number) == (RST_STREAM, 2 * most + 1)]
        assert not peer.wire.is_closed
        peer.connection.connection_lost(None)
        await turns()

    serve(story)


@pytest.mark.parametrize(
    "noise",
    [
        lambda n: frame(HEADERS, END_HEADERS, n, block(WAIT)) + frame(RST_STREAM, 0, n, CANCEL),
        lambda n: frame(PING, 0, 0, bytes(8)),
        lambda n: frame(http2_frames.SETTINGS, 0, 0),
        lambda n: frame(HEADERS, END_HEADERS, n, block(WAIT)) if n == 1 else frame(DATA, 0, 1),
    ],
    ids=["rapid reset", "pings", "settings", "empty data"],
)
def test_who_only_makes_noise_is_sent_away(noise: Callable[[int], bytes]) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        for n in range(1, 2 * STRANGER.noise + 10, 2):
            peer.say(noise(n))
        await peer.check_is_sent_away()

    serve(story)


def test_who_cancels_now_and_then_stays() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        for n in range(1, 4 * STRANGER.noise, 4):
            peer.say(frame(HEADERS, END_HEADERS, n, block(WAIT)) + frame(RST_STREAM, 0, n, CANCEL))
            peer.say(request(n + 2, ECHO, message(b"x")))
            await turns(1)
        assert not peer.wire.is_closed
        peer.connection.connection_lost(None)

    serve(story)


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 5, b"x"),
        frame(PING, 0, 0, bytes(7)),
        frame(RST_STREAM, 0, 9, CANCEL),
        frame(HEADERS, 0, 1, b"") + frame(9, 0, 1) * 100,
        frame(HEADERS, END_HEADERS, 1, block(CHAT)) + frame(DATA, 0, 1, message(bytes(16_379))) * 40,
    ],
    ids=["data of no stream", "short ping", "reset of no stream", "headers in ever more pieces", "beyond the window"],
)
def test_what_a_stranger_may_not_do_ends_the_connection(data: bytes) -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + data)
        await turns()
        assert peer.wire.is_closed
        peer.connection.connection_lost(None)
        await turns()

    serve(story)


def test_who_does_not_read_is_not_read() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        told: list[str] = []
        peer.wire.pause_reading = lambda: told.append("pause")  # type: ignore[method-assign]
        peer.wire.resume_reading = lambda: told.append("resume")  # type: ignore[method-assign]
        peer.connection.pause_writing()
        peer.connection.pause_writing()
        peer.connection.resume_writing()
        assert told == ["pause", "resume"]
        peer.connection.connection_lost(None)

    serve(story)


def test_connections_beyond_the_limit_are_closed_and_a_drain_lets_calls_end() -> None:
    async def run() -> None:
        front = DirectFront(Echo().methods(), address="127.0.0.1:0", max_connections=1)
        port = await front.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read(9)  # settings
        writer.write(HELLO + frame(HEADERS, END_HEADERS, 1, block(WAIT)) + frame(DATA, 1, 1, message(b"")))
        while not front.in_flight:
            await asyncio.sleep(0)
        other, refused = await asyncio.open_connection("127.0.0.1", port)
        assert await other.read() == b""
        await front.drain(0.0)
        assert front.in_flight == 0
        while await reader.read(1 << 16):
            pass
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            pass
        writer.close()
        refused.close()

    asyncio.run(run())


CERTIFICATE = {"tls_certificate": "c", "tls_key": "k"}
ELSEWHERE = {"listen": "0.0.0.0:8500", "access": "access.json"}


@pytest.mark.parametrize(
    ("written", "asked", "has_envoy", "expected"),
    [
        ({}, "", True, "direct"),
        ({"listen": "[::1]:8500"}, "", False, "direct"),
        (ELSEWHERE, "", True, "envoy"),
        (ELSEWHERE, "", False, "grpcio"),
        (CERTIFICATE, "", True, "envoy"),
        (ELSEWHERE | CERTIFICATE, "", True, "envoy"),
        (CERTIFICATE | {"tls_client_ca": "a"}, "", True, "envoy-tcp"),
        (ELSEWHERE | CERTIFICATE | {"tls_client_ca": "a"}, "", True, "envoy-tcp"),
        (ELSEWHERE | CERTIFICATE | {"tls_client_ca": "a"}, "", False, "grpcio"),
        ({}, "envoy", True, "envoy"),
        ({"front": "direct"}, "", True, "direct"),
        ({"front": "direct"}, "grpcio", True, "grpcio"),
    ],
)
def test_the_command_line_chooses_the_front_and_auto_keeps_strangers_from_our_own_http2(
    tmp_path: Path, written: dict[str, str], asked: str, has_envoy: bool, expected: str
) -> None:
    settings = GatewaySettings.from_json({**SETTINGS, "front": "auto", **written}, tmp_path)
    assert settings.on_front(asked, has_envoy=has_envoy).front == expected


def test_certificates_are_not_left_unused(tmp_path: Path) -> None:
    settings = GatewaySettings.from_json({**SETTINGS, **CERTIFICATE}, tmp_path)
    with pytest.raises(FieldInvalid, match="'direct' and gateway.tls_certificate is set, expected"):
        settings.on_front("direct", has_envoy=True)


def test_a_window_update_of_nothing_hurts_nobody() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(WINDOW_UPDATE, 0, 0, bytes(4)) + request(1, ECHO, message(b"x")))
        await turns()
        assert peer.answer(1)[1] == message(b"x")

    serve(story)
