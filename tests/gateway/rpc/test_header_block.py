"""Header blocks, against the hpack library's own writing of them."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rpc.header_block import BlockBroken, read_block, write_block

NAMES = st.sampled_from([b":path", b"te", b"content-type", b"grpc-timeout", b"x-odd", b":method"]) | st.binary(
    min_size=1, max_size=300
)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=300) | st.sampled_from([b"trailers", b"POST", b"/"])), max_size=8)


@given(fields=FIELDS, is_huffman=st.booleans())
def test_what_another_encoder_writes_without_a_table_is_read(
    fields: list[tuple[bytes, bytes]], is_huffman: bool
) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    assert read_block(encoder.encode(fields, huffman=is_huffman)) == fields


@given(fields=FIELDS)
def test_what_is_written_is_read_by_another_decoder(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = 0
    assert [(bytes(n), bytes(v)) for n, v in decoder.decode(write_block(fields), raw=True)] == fields


@given(block=st.binary(max_size=60))
def test_any_bytes_are_refused_or_are_fields_that_can_be_written_again(block: bytes) -> None:
    try:
        found = read_block(block)
    except BlockBroken:
        return
    assert read_block(write_block(found)) == found


@pytest.mark.parametrize(
    "block",
    [b"\xbe", b"\x80", b"\x3f\x01", b"\x00\x05a", b"\x00", b"\xff\xff\xff\xff\xff\x7f", b"\x00\x81\x00\x00"],
    ids=["of a table", "index 0", "wants a table", "short", "nothing", "endless number", "no Huffman code"],
)
def test_what_needs_a_table_or_ends_early_is_refused(block: bytes) -> None:
    with pytest.raises(BlockBroken):
        read_block(block)
