"""HTTP/2's frames as bytes (RFC 9113, 4 to 6): how each is written, and what is in it."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OF_CONNECTIONS = (SETTINGS, PING, GOAWAY)  # and of no stream
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
SURROUNDED = PADDED | PRIORITY  # a header block is not all of its frame
HEADER_TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW, MAX_HEADER_LIST = 1, 3, 4, 6
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM = 0, 1, 7

FRAME_BYTES = 16_384  # the longest payload that either side may send unasked
MOST_WINDOW = 2**31 - 1
HEARD = b"we leave"  # what a peer sends back when it has heard it
HEAD = struct.Struct(">BHBBI")  # length in two parts, kind, flags, stream
_SETTING = struct.Struct(">HI")


class PeerBroken(Exception):
    """The peer sent what HTTP/2 does not allow, or more than its limits do."""


def frame(kind: int, flags: int, number: int, payload: bytes | bytearray = b"") -> bytes:
    """Write one frame."""
    return HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def hello(*, streams: int, window: int, block_bytes: int) -> bytes:
    """Say what we keep to: no header table, so many streams, so much of each, headers up to so long."""
    promised = (HEADER_TABLE_SIZE, 0), (MAX_STREAMS, streams), (INITIAL_WINDOW, window), (MAX_HEADER_LIST, block_bytes)
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in promised))


def window_update(number: int, more: int) -> bytes:
    """Let the peer send so much more of a stream, or, of stream 0, of all."""
    return frame(WINDOW_UPDATE, 0, number, struct.pack(">I", more))


def reset(number: int, code: int) -> bytes:
    """End a stream."""
    return frame(RST_STREAM, 0, number, struct.pack(">I", code))


def goaway(last: int, code: int) -> bytes:
    """Say which stream was the last one that is answered."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code))


def farewell() -> bytes:
    """Say that a last stream will be named once the peer has heard this."""
    return goaway(MOST_WINDOW, NO_ERROR) + frame(PING, 0, 0, HEARD)


class Refusal:
    """An answer of one header block, the same for any stream."""

    __slots__ = ("_block", "_frames", "_head", "_reset")

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._head = frame(HEADERS, END_STREAM | END_HEADERS, 0, block)[:5]
        self._reset = reset(0, NO_ERROR)[:5]
        self._frames = struct.Struct(f">5sI{len(block)}s5sII")

    def frames(self, number: int, is_asked: bool) -> bytes:
        """Write it for a stream; a peer that has not sent its whole request yet is told to stop."""
        told = self._frames.pack(self._head, number, self._block, self._reset, number, NO_ERROR)
        return told[: 9 + len(self._block)] if is_asked else told


def last_headers(number: int, block: bytes) -> bytes:
    """Write the header block that ends a stream, in as many frames as it takes."""
    pieces = [block[at : at + FRAME_BYTES] for at in range(0, max(len(block), 1), FRAME_BYTES)]
    frames = []
    for place, piece in enumerate(pieces):
        flags = (0 if place else END_STREAM) | (END_HEADERS if place == len(pieces) - 1 else 0)
        frames.append(frame(CONTINUATION if place else HEADERS, flags, number, piece))
    return b"".join(frames)


def unpadded(payload: bytes) -> bytes:
    """Return a payload without its padding; raises PeerBroken."""
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise PeerBroken("padding of more than the payload")
    return payload[1 : len(payload) - padding]


def header_block(flags: int, payload: bytes) -> bytes:
    """Return the piece of a header block in a HEADERS frame; raises PeerBroken."""
    payload = unpadded(payload) if flags & PADDED else payload
    return payload[5:] if flags & PRIORITY else payload


def more_window(payload: bytes) -> int:
    """Return what a WINDOW_UPDATE grants; raises PeerBroken."""
    if len(payload) != 4:
        raise PeerBroken("a window update of another size than 4 bytes")
    return int.from_bytes(payload, "big") & MOST_WINDOW


def widened(window: int, more: int) -> int:
    """Return a window that so much more was granted of; raises PeerBroken."""
    if window + more > MOST_WINDOW:
        raise PeerBroken("a window of more than 2**31 - 1 bytes")
    return window + more


def initial_window(payload: bytes) -> int | None:
    """Return the window of streams that a SETTINGS frame grants, if it says; raises PeerBroken."""
    if len(payload) % 6:
        raise PeerBroken("settings of a size that is no multiple of 6")
    found = None
    for name, value in _SETTING.iter_unpack(payload):
        if name == INITIAL_WINDOW:
            if value > MOST_WINDOW:
                raise PeerBroken("a window of more than 2**31 - 1 bytes")
            found = value
    return found
