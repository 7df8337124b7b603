"""The least a gRPC server can do: the same bytes for every call. ``python serve_bare.py PORT ANSWER_FILE``.

Stands behind the Envoy peer, and shows what the load generator itself can drive. It reads frame
heads and nothing else, so it is a fixture and not a server; standard library and uvloop only.
"""

import asyncio
import struct
import sys
from pathlib import Path

import uvloop

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
MAX_STREAMS, INITIAL_WINDOW = 3, 4
_HEAD = struct.Struct(">BHBBI")


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


class Answer:
    """A whole unary reply, for any stream."""

    def __init__(self, message: bytes) -> None:
        start = _literal(b":status", b"200") + _literal(b"content-type", b"application/grpc")
        body = b"\0" + struct.pack(">I", len(message)) + message
        frames = (
            _frame(HEADERS, END_HEADERS, 0, start),
            _frame(DATA, 0, 0, body),
            _frame(HEADERS, END_HEADERS | END_STREAM, 0, _literal(b"grpc-status", b"0")),
        )
        self._parts = [(whole[:5], whole[9:]) for whole in frames]

    def on(self, stream: int) -> bytes:
        """Write the reply."""
        number = stream.to_bytes(4, "big")
        return b"".join(part for head, rest in self._parts for part in (head, number, rest))


class Bare(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pending = b""
        self._received = 0
        self._is_greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer many streams and a wide window."""
        self._transport = transport
        pairs = struct.pack(">HIHI", MAX_STREAMS, 1 << 20, INITIAL_WINDOW, 1 << 20)
        hello = _frame(SETTINGS, 0, 0, pairs) + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        transport.write(hello)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Answer every request that ends here, in one write."""
        pending = self._pending + data
        at = 0
        if not self._is_greeted:
            if len(pending) < len(PREFACE):
                self._pending = pending
                return
            at, self._is_greeted = len(PREFACE), True
        out = []
        while len(pending) - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(pending, at)
            length = (high << 16) + low
            if len(pending) - at - 9 < length:
                break
            if kind == DATA:
                self._received += length
                if flags & END_STREAM:
                    out.append(self._answer.on(stream))
            elif kind == SETTINGS and not flags & ACK:
                out.append(_frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                out.append(_frame(PING, ACK, 0, pending[at + 9 : at + 9 + length]))
            at += 9 + length
        self._pending = pending[at:]
        if self._received > 1 << 26:
            out.append(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        if out:
            self._transport.write(b"".join(out))  # type: ignore[attr-defined]


async def serve(port: int, message: bytes) -> asyncio.Server:
    """Listen on 127.0.0.1."""
    answer = Answer(message)
    return await asyncio.get_running_loop().create_server(lambda: Bare(answer), "127.0.0.1", port)


async def _main() -> None:
    server = await serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes())
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
