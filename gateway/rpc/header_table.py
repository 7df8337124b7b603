"""What a caller's header blocks mean: with its table, until it has heard that it is to keep none (RFC 7541)."""

from functools import lru_cache

from hpack import Decoder, HPACKError

from gateway.rpc.header_block import (
    MOST_FIELDS,
    MOST_KEPT_BYTES,
    BlockBroken,
    TooManyFields,
    leaves_no_trace,
    write_block,
)

MOST_REWRITTEN = 1_000  # blocks of one connection: far more than can be under way when the peer hears


class HeaderTable:
    """One peer's. Blocks come out as ``header_block`` reads them, whatever they went in as.

    Callers begin with a table of 4 KiB. Told to keep none they say so in their next block, and from then on, as with
    those who never wrote into it, a block passes as it is.
    """

    def __init__(self, most_bytes: int) -> None:
        self._decoder: Decoder | None = Decoder(max_header_list_size=most_bytes)
        self._rewritten = 0

    def plain(self, block: bytes) -> bytes:
        """Return a block that means the same without a table; raises BlockBroken. Give it every block, in order."""
        decoder = self._decoder
        if decoder is None:
            return block
        if _is_plain(block) if len(block) <= MOST_KEPT_BYTES else leaves_no_trace(block):
            return block
        self._rewritten += 1
        if self._rewritten > MOST_REWRITTEN:
            raise BlockBroken("a header table is still used that the peer was told not to keep")
        try:
            fields = list(decoder.decode(block, raw=True))
        except HPACKError as error:
            raise BlockBroken(f"a header block cannot be read: {error}") from error
        if len(fields) > MOST_FIELDS:
            raise TooManyFields(f"more than {MOST_FIELDS} fields")
        if decoder.header_table_size == 0:
            self._decoder = None
        return write_block((bytes(name), bytes(value)) for name, value in fields)


_is_plain = lru_cache(maxsize=1024)(leaves_no_trace)
