"""What Envoy says of a connection that it passes on, and what is made of it."""

import asyncio
import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2 import Connection
from gateway.rpc.http2_frames import PREFACE
from gateway.rpc.http2_limits import STRANGER
from gateway.rpc.introduced import HEAD, NAMES, SIGNATURE, Introduced, identity

URI, DNS, SUBJECT = NAMES
IPV4, IPV6, NOWHERE = 0x11, 0x21, 0x00


def header(*said: tuple[int, str], family: int = IPV4) -> bytes:
    addresses = {IPV4: 12, IPV6: 36, NOWHERE: 0}[family]
    rest = bytes(addresses) + b"".join(struct.pack(">BH", kind, len(text)) + text.encode() for kind, text in said)
    return HEAD.pack(SIGNATURE, 0x21, family, len(rest)) + rest


class Wire:
    """A transport that notes what becomes of it."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.is_aborted = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.is_aborted = True

    def write(self, data: bytes) -> None: ...


@pytest.mark.parametrize("family", [IPV4, IPV6, NOWHERE])
def test_the_uri_names_the_caller_else_its_dns_name_else_its_subject(family: int) -> None:
    everything = (SUBJECT, "CN=edge"), (0x04, "unasked"), (DNS, "edge.example"), (URI, "spiffe://edge")
    assert identity(header(*everything, family=family)) == "spiffe://edge"
    assert identity(header(*everything[:3], (URI, "-"), family=family)) == "edge.example"
    assert identity(header((URI, "-"), (DNS, "-"), (SUBJECT, "CN=edge"), family=family)) == "CN=edge"
    assert identity(header((URI, "-"), family=family)) == identity(header(family=family)) == ""


@given(said=st.binary(max_size=60), family=st.integers(0, 255))
def test_any_header_names_somebody_or_is_no_header(said: bytes, family: int) -> None:
    with contextlib.suppress(ValueError, struct.error):
        name = identity(HEAD.pack(SIGNATURE, 0x21, family, len(said)) + said)
        assert name.encode() in said  # nobody is made up


@given(cut=st.integers(1, 40), family=st.sampled_from([IPV4, IPV6]))
def test_however_its_bytes_come_a_connection_begins_behind_its_header(cut: int, family: int) -> None:
    async def story() -> None:
        wire, server = Wire(), GrpcServer((), limits=STRANGER)
        begun = Introduced(server.connect)
        begun.connection_made(wire)  # type: ignore[arg-type]
        whole = header((URI, "spiffe://edge"), family=family) + PREFACE
        begun.data_received(whole[:cut])
        wire.protocol = wire.protocol or begun
        wire.protocol.data_received(whole[cut:])
        assert isinstance(wire.protocol, Connection)
        assert (wire.protocol.identity, wire.protocol.is_greeted) == ("spiffe://edge", True)

    asyncio.run(story())


@pytest.mark.parametrize(
    "said",
    [
        PREFACE,
        header((URI, "x"))[:16].replace(b"QUIT", b"STAY"),
        HEAD.pack(SIGNATURE, 0x21, IPV4, 14) + bytes(14),
        HEAD.pack(SIGNATURE, 0x21, NOWHERE, 6) + struct.pack(">BH", URI, 9) + b"edgeXXXXXX",
    ],
    ids=["no header", "another signature", "an entry that is cut off", "an entry that goes on behind the header"],
)
def test_who_is_not_introduced_is_sent_away(said: bytes) -> None:
    async def story() -> None:
        wire, server = Wire(), GrpcServer((), limits=STRANGER)
        begun = Introduced(server.connect)
        begun.connection_made(wire)  # type: ignore[arg-type]
        begun.data_received(said)
        assert wire.is_aborted
        assert not server.connections

    asyncio.run(story())
