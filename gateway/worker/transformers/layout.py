"""How prompts of different lengths become one rectangular batch: side by side, or one behind another.

Padded, each prompt has a row and short ones are filled up; packed, all share one row and attention keeps
them apart. Packing wastes nothing on padding but lets attention look at every pair of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING, NO_PREFIX = -1, -2
FIRST_PREFIX = 1 << 20  # prefixes are numbered from here, segments from 0

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """One prompt's own tokens and where they continue: behind ``start`` tokens of prefix number ``prefix``."""

    ids: Sequence[int]
    start: int = 0
    prefix: int = NO_PREFIX


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch as arrays, all of shape [rows, tokens] but the last two.

    Attributes:
        segment: The prompt each token is of, ``PADDING`` where it is of none.
        first, last: Where each prompt begins and ends among the flattened tokens, shape [prompts], repeated
            up to a bucket's size.
    """

    ids: Ints
    position: Ints
    segment: Ints
    prefix: Ints
    first: Ints
    last: Ints


def bucket(size: int) -> int:
    """Round a number of tokens up: few shapes, each at most an eighth too large beyond 128.

    One kernel choice, and one CUDA graph, serves all sizes of a bucket.
    """
    step = 16
    while size > 8 * step:
        step *= 2
    return -(-size // step) * step


def row_bucket(rows: int) -> int:
    """Round a number of rows up to a power of two."""
    return 1 << (rows - 1).bit_length()


def lay_out(parts: Sequence[Part], *, packed: bool, bucketed: bool) -> Layout:
    """Arrange prompts in one batch; bucketed batches are filled up with padding."""
    lengths = [len(part.ids) for part in parts]
    rows, width = (1, sum(lengths)) if packed else (len(parts), max(lengths))
    if bucketed:
        rows, width = (1 if packed else row_bucket(rows)), bucket(width)
    ids = np.zeros((rows, width), dtype=np.int64)
    segment = np.full((rows, width), PADDING, dtype=np.int64)
    prefix = np.full((rows, width), NO_PREFIX, dtype=np.int64)
    position = np.zeros((rows, width), dtype=np.int64)
    first = np.zeros(len(parts), dtype=np.int64)
    at = 0
    for i, part in enumerate(parts):
        row, place = (0, at) if packed else (i, 0)
        span = slice(place, place + len(part.ids))
        ids[row, span] = part.ids
        segment[row, span] = i
        prefix[row, span] = part.prefix
        position[row, span] = np.arange(part.start, part.start + len(part.ids))
        first[i] = row * width + place
        at += len(part.ids)
    last = first + np.array(lengths) - 1
    if bucketed:
        first, last = (np.resize(places, row_bucket(len(parts))) for places in (first, last))
    return Layout(ids, position, segment, prefix, first, last)


def packing_pays(lengths: Sequence[int], cached: int, per_token: float, per_pair: float) -> bool:
    """Say whether one packed row computes less than padded rows.

    Args:
        lengths: New tokens of each prompt.
        cached: Tokens of the prefixes they continue.
        per_token: Cost of a token outside attention, per layer, in operations.
        per_pair: Cost of a token looking at another, in operations.
    """
    total, longest = sum(lengths), max(lengths)
    packed = total * (per_token + per_pair * (total + cached))
    padded = len(lengths) * longest * (per_token + per_pair * (longest + cached))
    return packed < padded
