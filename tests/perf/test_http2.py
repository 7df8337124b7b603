"""The generator's connection, against a server that answers the same bytes and one that misbehaves."""

import asyncio
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from perf import http2
from perf.http2 import Call, Connection, frame, literal_headers
from perf.openloop import Load, run
from perf.peers.envoy_proxy import constant_answer
from perf.peers.serve_bare import serve
from perf.request import METHOD, check_answer, request_bytes


@contextmanager
def bare(answer: bytes) -> Iterator[str]:
    """Run the bare server in a thread."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(serve(0, answer))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def test_the_request_is_1024_bytes() -> None:
    assert len(request_bytes()) == 1024


def test_an_ordinary_client_understands_the_bare_server() -> None:
    with bare(constant_answer()) as address:
        assert check_answer(address, 5.0).raw_output_contents == [struct.pack("<f", 0.5)]


def test_an_answer_without_a_score_is_no_basis_for_a_rate() -> None:
    with bare(b"") as address, pytest.raises(RuntimeError, match="without a score"):
        check_answer(address, 5.0)


def test_every_call_of_a_closed_loop_is_answered_once() -> None:
    with bare(constant_answer()) as address:
        found = run(Load(address, seconds=20.0, warmup_s=0.0, streams=8, connections=2, calls=500))
    # Those in flight when the last one asked for ends are waited for, too.
    assert 500 <= found.ok <= 508
    assert found.errors == {} and found.fallbacks == 0


def test_what_is_written_is_what_a_grpc_server_reads() -> None:
    """The other side here is grpcio, which shares no code with ours."""
    seen = []

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append((request, context.time_remaining()))
        if len(seen) % 2 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "every other one")
        return b"fallback_reason" if len(seen) == 1 else constant_answer()

    server = grpc.server(ThreadPoolExecutor(1))
    service, _, name = METHOD[1:].partition("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    load = Load(f"127.0.0.1:{port}", seconds=20.0, warmup_s=0.0, streams=1, connections=1, calls=6, budget_s=15.0)
    found = run(load)
    server.stop(None)
    assert (found.ok, found.fallbacks, found.errors) == (2, 1, {"RESOURCE_EXHAUSTED": 3})
    assert {request for request, _ in seen} == {request_bytes()}
    assert all(0 < left <= 15.0 for _, left in seen)


class Peer:
    """The server's end of a connection, spoken byte by byte."""

    def __init__(self, connection: Connection, sock: http2.socket.socket) -> None:
        self.connection = connection
        self.socket = sock

    def say(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))
        self.connection.socket.setblocking(True)  # so that reading waits for what was just sent
        self.connection.receive()
        if self.connection.is_open:
            self.connection.socket.setblocking(False)


@contextmanager
def pair(done: http2.Done) -> Iterator[Peer]:
    with http2.socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection(listening.getsockname()[:2], Call("here", METHOD, b"x" * 100), done)
        accepted, _ = listening.accept()
        with accepted:
            yield Peer(connection, accepted)
        connection.close()


def headers(stream: int, *pairs: tuple[str, str], ends: bool = False) -> bytes:
    flags = http2.END_HEADERS | (http2.END_STREAM if ends else 0)
    return frame(http2.HEADERS, flags, stream, literal_headers(list(pairs)))


def test_a_reply_cut_anywhere_is_the_same_reply() -> None:
    reply = (
        headers(1, (":status", "200"))
        + frame(http2.DATA, 0, 1, b"mes")
        + frame(http2.DATA, 0, 1, b"sage")
        + headers(1, ("grpc-status", "0"), ends=True)
    )
    for cut in range(1, len(reply)):
        over: list[tuple[int, str, bytes]] = []
        with pair(lambda *how, over=over: over.append(how)) as peer:  # type: ignore[misc]
            peer.connection.send(7)
            peer.connection.flush()
            peer.say(reply[:cut])
            peer.say(reply[cut:])
        assert over == [(7, "0", b"message")], cut


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (headers(1, ("grpc-status", "8"), ends=True), "8"),
        (headers(1, (":status", "503"), ends=True), "no status"),
        (headers(1, (":status", "200")) + frame(http2.DATA, http2.END_STREAM, 1, b"x"), "no status"),
        (frame(http2.RST_STREAM, 0, 1, struct.pack(">I", 2)), "reset"),
        (frame(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0)), "lost"),
    ],
    ids=["trailers only", "http error", "no trailers", "reset", "goaway before it was seen"],
)
def test_each_way_a_call_can_end_is_told_apart(said: bytes, status: str) -> None:
    over = []
    with pair(lambda *how: over.append(how[:2])) as peer:
        peer.connection.send(7)
        peer.connection.flush()
        peer.say(said)
    assert over == [(7, status)]


def test_a_lost_connection_ends_its_calls_and_the_next_call_opens_another() -> None:
    over = []
    with pair(lambda *how: over.append(how[:2])) as peer:
        peer.connection.send(7)
        peer.connection.flush()
        peer.socket.close()
        peer.connection.socket.setblocking(True)
        while peer.connection.is_open:
            peer.connection.receive()
        assert over == [(7, "lost")]
        peer.connection.send(8)
        peer.connection.flush()
        assert peer.connection.is_open


def test_calls_wait_in_line_when_the_peer_allows_no_more_streams() -> None:
    over = []
    with pair(lambda *how: over.append(how[:2])) as peer:
        peer.say(http2.settings((http2.MAX_STREAMS, 1)))
        peer.connection.send(7)
        peer.connection.send(8)
        peer.connection.flush()
        peer.say(headers(3, ("grpc-status", "0"), ends=True))
        assert over == []  # stream 3 was never opened
        peer.say(headers(1, ("grpc-status", "0"), ends=True))
        peer.connection.flush()
        peer.say(headers(3, ("grpc-status", "0"), ends=True))
        assert over == [(7, "0"), (8, "0")]


def test_an_abandoned_call_is_never_reported() -> None:
    over = []
    with pair(lambda *how: over.append(how[:2])) as peer:
        peer.connection.send(7)
        peer.connection.send(8)
        peer.connection.flush()
        peer.connection.abandon(7)
        peer.say(headers(1, ("grpc-status", "0"), ends=True), headers(3, ("grpc-status", "0"), ends=True))
        assert over == [(8, "0")]
