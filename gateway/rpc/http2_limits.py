"""What the peer of an HTTP/2 connection may do: our own Envoy, and anybody else."""

from dataclasses import dataclass

from gateway.rpc.http2_frames import MOST_WINDOW

MOST_PIECES = 64  # of a header block
GRANTS_AN_ANSWER = 8  # of a window, before one counts as noise: Envoy allows ten for each frame of data
NOISE_AN_ANSWER = 2  # is forgiven: grpc-go pings and grants window for each, to measure its way


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may do.

    Attributes:
        streams: Open at once; more are refused one by one.
        block_bytes: Of one request's headers.
        window: What it may send on the connection before any of it is taken.
        noise: Frames beyond its answered calls that ask for nothing, resets among them (CVE-2023-44487), until it is
            sent away.
    """

    streams: int
    block_bytes: int
    window: int
    noise: int


STRANGER = Limits(streams=128, block_bytes=1 << 16, window=1 << 24, noise=1_000)
OUR_ENVOY = Limits(streams=MOST_WINDOW, block_bytes=1 << 18, window=1 << 30, noise=MOST_WINDOW)
