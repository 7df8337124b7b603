"""Salted draws: where a unit falls in 0..9999, equal on every host and after every restart.

Four independent domains keep the draws apart, so that being in the canary says
nothing about being shadowed, captured or held back. Source of the hash: xxh3-64, seed 0.
"""

from enum import StrEnum

import xxhash

BASIS_POINTS = 10_000


class Draw(StrEnum):
    """The independent questions asked about one unit."""

    CANARY = "canary"
    SHADOW = "shadow"
    CAPTURE = "capture"
    HOLDBACK = "holdback"


def bucket(salt: str, draw: Draw, unit: str) -> int:
    """Place a unit in 0..9999, uniformly over units."""
    return xxhash.xxh3_64_intdigest(f"{salt}\x1f{draw}\x1f{unit}".encode()) % BASIS_POINTS


def pseudonym(salt: str, unit: str) -> str:
    """Name a unit by 16 hex digits, for records that must not hold the unit itself."""
    return xxhash.xxh3_64_hexdigest(f"{salt}\x1fpseudonym\x1f{unit}".encode())
