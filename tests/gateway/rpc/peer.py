"""Who speaks HTTP/2 with the server, frame by frame and without a socket."""

import asyncio
import struct
from typing import Any

import hpack

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2_frames import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, frame
from gateway.rpc.wire import ARRIVED

HELLO = PREFACE + frame(SETTINGS, 0, 0)
ALL = END_STREAM | END_HEADERS


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.is_closed = self.is_aborted = self.is_for_the_peer_to_close = False

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.is_closed = True
        self.is_for_the_peer_to_close = False

    def write_eof(self) -> None:
        self.is_closed = self.is_for_the_peer_to_close = True

    def abort(self) -> None:
        self.is_aborted = True


class Peer:
    """The other side: frames to a server, and what it answers."""

    def __init__(self, server: GrpcServer) -> None:
        self.wire = Wire()
        self.connection = server.connect()
        self.connection.connection_made(self.wire)
        self._decoder = hpack.Decoder()

    def say(self, data: bytes) -> None:
        self.connection.data_received(data)

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Everything said so far: kind, flags, stream, payload."""
        found, at = [], 0
        while at < len(self.wire.said):
            high, low, kind, flags, number = struct.unpack_from(">BHBBI", self.wire.said, at)
            length = (high << 16) + low
            found.append((kind, flags, number, self.wire.said[at + 9 : at + 9 + length]))
            at += 9 + length
        return found

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Headers and trailers of a stream's answer, and its body; the stream must be over."""
        headers: dict[str, str] = {}
        body, is_over = b"", False
        for kind, flags, number, payload in self.frames():
            if number == stream:
                if kind == HEADERS:
                    headers |= dict(self._decoder.decode(payload))
                elif kind == DATA:
                    body += payload
                is_over = is_over or (kind in (HEADERS, DATA) and bool(flags & END_STREAM))
        assert is_over
        return headers, body

    async def check_is_sent_away(self) -> None:
        """Assert that the server ended the connection and said so, and leave."""
        await turns()
        assert self.wire.is_closed
        assert GOAWAY in self.kinds(0)
        self.connection.connection_lost(None)
        await turns()

    def kinds(self, stream: int) -> list[int]:
        return [kind for kind, _, number, _ in self.frames() if number == stream]


def block(path: str, *extra: tuple[str, str], stamp: str | None = None) -> bytes:
    """Write a request's headers as Envoy does: no table, Huffman codes, the time of arrival last."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    fields = [(":method", "POST"), (":path", path), ("content-type", "application/grpc"), *extra]
    return bytes(encoder.encode([*fields, (ARRIVED.decode(), stamp)] if stamp else fields))


def request(number: int, path: str, body: bytes, *extra: tuple[str, str], stamp: str | None = None) -> bytes:
    return frame(HEADERS, END_HEADERS, number, block(path, *extra, stamp=stamp)) + frame(DATA, END_STREAM, number, body)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
