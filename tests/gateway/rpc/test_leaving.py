"""How connections end: in order, with a peer that does not read, and without what anybody began in time being lost."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from gateway.rpc.direct import GREETING_S, LEAVE_S, MOST_AGE_S, DirectFront, look
from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    MOST_WINDOW,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.wire import frame as message
from tests.batteries.echo import SERVICE, Echo
from tests.gateway.rpc.peer import HELLO, Peer, block, request, turns

ECHO, COUNT, WAIT = SERVICE + "Echo", SERVICE + "Count", SERVICE + "Wait"
WIDE = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 1 << 30))
MORE = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
BIG = 100_000


def serve(story: Callable[[Peer, GrpcServer], Awaitable[None]]) -> None:
    async def run() -> None:
        server = GrpcServer(Echo().methods(), limits=STRANGER)
        peer = Peer(server)
        await story(peer, server)
        peer.connection.connection_lost(None)
        await turns()
        assert server.in_flight == 0

    asyncio.run(run())


def heard(peer: Peer) -> bytes:
    """Send back what the server asked whether it was heard."""
    (asked,) = [payload for kind, flags, _, payload in peer.frames() if kind == PING and not flags]
    return frame(PING, ACK, 0, asked)


def farewells(peer: Peer) -> list[tuple[int, int]]:
    return [struct.unpack(">II", payload) for kind, _, _, payload in peer.frames() if kind == GOAWAY]


def test_a_connection_that_leaves_answers_what_began_before_the_peer_had_heard_and_nothing_after() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(HEADERS, END_HEADERS, 1, block(ECHO)))
        peer.connection.leave()
        peer.connection.leave()
        await turns()
        peer.say(request(3, ECHO, message(b"on its way")) + heard(peer) + request(5, ECHO, message(b"late")))
        await turns()
        assert peer.answer(3)[1] == message(b"on its way")
        assert not peer.wire.is_closed
        peer.say(frame(DATA, END_STREAM, 1, message(b"first")))
        await turns()
        assert peer.answer(1)[1] == message(b"first")
        assert not peer.kinds(5)
        assert peer.wire.is_closed
        assert farewells(peer) == [(MOST_WINDOW, 0), (3, 0)]

    serve(story)


def test_the_last_stream_that_was_named_never_rises() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + request(1, WAIT, message(b"")))
        peer.connection.leave()
        await turns()
        peer.say(heard(peer) + request(3, ECHO, message(b"late")) + frame(PING, 0, 0, b"broken"))
        assert farewells(peer) == [(MOST_WINDOW, 0), (1, 0), (1, 1)]

    serve(story)


def test_who_says_it_has_heard_before_it_was_told_changes_nothing() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + frame(PING, ACK, 0, b"we leave") + request(1, ECHO, message(b"x")))
        await turns()
        assert peer.answer(1)[1] == message(b"x")
        assert not farewells(peer)

    serve(story)


def test_an_old_connection_is_told_then_ended_then_cut_off() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO + request(1, WAIT, message(b"")))
        began = peer.connection.began
        look(server, began + MOST_AGE_S)
        await turns()
        assert farewells(peer) == []
        look(server, began + MOST_AGE_S + 1)
        await turns()
        assert farewells(peer) == [(MOST_WINDOW, 0)]
        look(server, began + MOST_AGE_S + LEAVE_S + 1)
        assert peer.wire.is_closed
        assert not peer.wire.is_aborted
        ended = peer.connection.ended
        assert ended is not None
        look(server, ended + LEAVE_S)
        assert not peer.wire.is_aborted
        look(server, ended + LEAVE_S + 1)
        assert peer.wire.is_aborted

    serve(story)


def test_who_does_not_greet_is_ended_and_who_broke_the_protocol_is_cut_off_too() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        broken = Peer(server)
        broken.say(b"GET / HTTP/1.1\r\n\r\n")
        assert broken.wire.is_closed
        look(server, broken.connection.began + LEAVE_S + 1)
        assert broken.wire.is_aborted
        broken.connection.connection_lost(None)
        look(server, peer.connection.began + GREETING_S + 1)
        assert peer.wire.is_closed

    serve(story)


def test_who_was_left_to_close_does_not_keep_a_front_from_closing() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        peer.connection.leave()
        await turns()
        peer.say(heard(peer))
        await turns()
        assert peer.wire.is_for_the_peer_to_close
        await server.close()
        assert not peer.wire.is_for_the_peer_to_close
        assert farewells(peer) == [(MOST_WINDOW, 0), (0, 0)]

    serve(story)


def test_what_a_closed_connection_still_sends_is_not_heard() -> None:
    async def story(peer: Peer, server: GrpcServer) -> None:
        peer.say(HELLO)
        peer.connection.close()
        peer.say(request(1, WAIT, message(b"")))
        assert server.in_flight == 0

    serve(story)


def test_a_drain_lets_a_caller_read_the_rest_of_its_answer() -> None:
    async def run() -> None:
        front = DirectFront(Echo().methods(), address="127.0.0.1:0")
        reader, writer = await asyncio.open_connection("127.0.0.1", await front.start())
        body = message(bytes(BIG))
        writer.write(HELLO + frame(HEADERS, END_HEADERS, 1, block(ECHO)))
        for at in range(0, len(body), 16_000):
            writer.write(frame(DATA, END_STREAM if at + 16_000 >= len(body) else 0, 1, body[at : at + 16_000]))
        answered = b""
        while len(answered) < 65_535:  # as much as the window lets through
            answered += await reader.read(1 << 16)
        draining = asyncio.create_task(front.drain(60.0))
        while b"we leave" not in answered:
            answered += await reader.read(1 << 16)
        writer.write(frame(PING, ACK, 0, b"we leave") + WIDE + MORE)
        answered += await reader.read()  # to the end
        writer.close()
        await draining
        assert len(answered) > BIG

    asyncio.run(run())


def test_a_drain_does_not_wait_for_a_caller_who_never_reads() -> None:
    async def run() -> None:
        front = DirectFront(Echo().methods(), address="127.0.0.1:0")
        port = await front.start()
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(HELLO + WIDE + MORE + request(1, COUNT, message(b"99999999")))
            while not front.in_flight:
                await asyncio.sleep(0)
            await front.drain(0.0)
            await turns()
            assert front.in_flight == 0

    asyncio.run(run())
