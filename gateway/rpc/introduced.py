"""Whose a connection is that Envoy passes on: its PROXY header, version 2 (haproxy's ``proxy-protocol.txt``).

Only our own Envoy reaches the socket this is read from. What callers send begins behind the header.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from gateway.rpc.http2 import Connection

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEAD = struct.Struct(">12sBBH")  # signature, version and command, family, length of what follows
ADDRESSES = {0x1: 12, 0x2: 36, 0x3: 216}  # bytes of both, by the family's upper half
NAMES = (0xE1, 0xE2, 0xE3)  # what a verified certificate names: URI, DNS name, subject; types free for anybody's use
NOTHING = "-"  # as Envoy writes what is not there


def identity(header: bytes) -> str:
    """Return what a caller's certificate names, the first of NAMES that it has; raises ValueError or struct.error."""
    _, _, family, length = HEAD.unpack_from(header)
    at, end = HEAD.size + ADDRESSES.get(family >> 4, 0), HEAD.size + length
    found = {}
    while at < end:
        kind, size = struct.unpack_from(">BH", header, at)
        at += 3 + size
        if at > end:
            raise ValueError("an entry goes past the end of its header")
        found[kind] = header[at - size : at].decode()
    return next((name for kind in NAMES if (name := found.get(kind, NOTHING)) not in ("", NOTHING)), "")


class Introduced(asyncio.Protocol):
    """A connection until its header is there; then it is ``connect()``'s."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the header."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing

    def data_received(self, data: bytes) -> None:
        """Read the header, and hand over what comes behind it."""
        transport = self._transport
        assert transport is not None
        data = self._pending = self._pending + data
        if not data.startswith(SIGNATURE[: len(data)]):
            transport.abort()
            return
        if len(data) < HEAD.size or len(data) < (end := HEAD.size + HEAD.unpack_from(data)[3]):
            return
        try:
            name = identity(data[:end])
        except (ValueError, struct.error):
            transport.abort()
            return
        connection = self._connect()
        connection.identity = name
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if len(data) > end:
            connection.data_received(data[end:])
