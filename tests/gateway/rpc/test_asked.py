"""Headers are read once for all calls that say the same, and each call keeps its own time."""

from collections.abc import Sequence

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FramingBroken, UnknownMethod
from gateway.rpc.asked import MOST_KEPT, Headings
from gateway.rpc.header_block import MOST_KEPT_BYTES, BlockBroken, Field, write_block
from gateway.rpc.wire import Kind, Method
from tests.gateway.rpc.test_strangers import ECHO

PATH = ECHO.encode()
FIELDS: tuple[Field, ...] = ((b":method", b"POST"), (b":path", PATH), (b"content-type", b"application/grpc"))
TIME = b"grpc-timeout"
TIMES = st.sampled_from([b"100m", b"99999999n", b"1S", b"1", b"", b"9e9n", b"00000001u", b"0m"])


async def echo(call: object, payload: bytes) -> bytes:
    return payload


METHODS = {ECHO: Method(ECHO, Kind.UNARY, echo)}


def block(fields: Sequence[Field], how: str) -> bytes:
    if how == "plain":
        return write_block(fields)
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields, huffman=how == "compressed"))


def said(headings: Headings, written: bytes) -> object:
    try:
        asked, given_s = headings.read(written)
    except BlockBroken:
        return "broken"
    return asked._replace(error=None), str(asked.error), given_s


# Values that hold what looks like the field itself, in any of the ways it is written.
HIDDEN = [block(((TIME, b"1S"),), how)[1:] for how in ("plain", "literal", "compressed")]
VALUES = st.sampled_from(HIDDEN + [hidden[:-1] for hidden in HIDDEN]) | st.binary(max_size=30)
EXTRA = st.lists(st.tuples(st.sampled_from([b"x-a", b"x-b", TIME, b"te"]), VALUES | TIMES), max_size=4)
CALLS = st.lists(st.tuples(EXTRA, TIMES, st.sampled_from(["plain", "literal", "compressed"])), min_size=1, max_size=6)


@given(CALLS, st.booleans())
def test_what_is_kept_of_earlier_calls_changes_nothing_of_what_a_call_says(
    calls: list[tuple[list[Field], bytes, str]], is_first: bool
) -> None:
    kept = Headings(METHODS, is_envoy=False)
    for extra, time, how in calls:
        fields = [*FIELDS, (TIME, time), *extra] if is_first else [*FIELDS, *extra, (TIME, time)]
        written = block(fields, how)
        for _ in range(2):
            assert said(kept, written) == said(Headings(METHODS, is_envoy=False), written)


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=8))
def test_no_bytes_in_place_of_the_time_are_read_as_those_of_another_call(ends: list[bytes]) -> None:
    kept = Headings(METHODS, is_envoy=False)
    begun = block((*FIELDS, (TIME, b"99999998n")), "literal")
    for end in [b"", *ends]:
        written = begun[:-9] + end + begun[len(begun) - 9 + len(end) :] if end else begun
        assert said(kept, written) == said(Headings(METHODS, is_envoy=False), written)


@pytest.mark.parametrize("how", ["plain", "literal", "compressed"])
def test_calls_that_differ_in_their_time_alone_are_read_once(how: str) -> None:
    headings = Headings(METHODS, is_envoy=False)
    read = [headings.read(block((*FIELDS, (TIME, b"%dn" % (99_000_000 + i)), (b"x-a", b"1")), how)) for i in range(50)]
    assert [given_s for _, given_s in read] == pytest.approx([0.099 + i / 1e9 for i in range(50)])
    lengths = 1 if how != "compressed" else 3  # a length is a rest of its own
    assert len({id(asked) for asked, _ in read}) <= lengths


def test_a_time_that_is_none_is_said_whatever_was_kept() -> None:
    headings = Headings(METHODS, is_envoy=False)
    headings.read(block((*FIELDS, (TIME, b"11111n")), "literal"))
    asked, given_s = headings.read(block((*FIELDS, (TIME, b"11-11n")), "literal"))
    assert isinstance(asked.error, FramingBroken) and given_s is None
    asked, _ = headings.read(block(((b":path", b"/none"), *FIELDS[2:], (TIME, b"1S")), "plain"))
    assert isinstance(asked.error, UnknownMethod)


def test_what_is_kept_is_bounded_however_long_and_different_the_headers_are() -> None:
    headings = Headings(METHODS, is_envoy=False)
    long = block((*FIELDS, (b"x-a", b"a" * MOST_KEPT_BYTES)), "plain")
    assert headings.read(long)[0] is not headings.read(long)[0]
    for number in range(MOST_KEPT + 10):
        headings.read(block((*FIELDS, (b"x-a", b"%d" % number)), "plain"))
    assert len(headings._whole) <= MOST_KEPT
