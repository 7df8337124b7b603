"""Salted draws: where a unit falls in 0..9999, equal on every host and after every restart.

Four independent domains keep the draws apart, so that being in the canary says
nothing about being shadowed, captured or held back. Source of the hash: xxh3-64, seed 0.
"""

from enum import StrEnum
from functools import lru_cache

from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from protos.contract.plan import BASIS_POINTS as BASIS_POINTS  # a plan is read where nothing is drawn


class Draw(StrEnum):
    """The independent questions asked about one unit."""

    CANARY = "canary"
    SHADOW = "shadow"
    CAPTURE = "capture"
    HOLDBACK = "holdback"


@lru_cache(maxsize=4096)
def domains(salt: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what ``place`` draws in, for a salt: canary, shadow, capture, holdback."""
    canary, shadow, capture, holdback = (f"{salt}\x1f{draw}\x1f".encode() for draw in Draw)
    return canary, shadow, capture, holdback


def place(domain: bytes, unit: bytes) -> int:
    """Place a unit, as UTF-8, in 0..9999, uniformly over units."""
    return xxh3_64_intdigest(domain + unit) % BASIS_POINTS


def bucket(salt: str, draw: Draw, unit: str) -> int:
    """Place a unit by names, where nobody waits for it."""
    return place(f"{salt}\x1f{draw}\x1f".encode(), unit.encode())


def pseudonym(salt: str, unit: str) -> str:
    """Name a unit by 16 hex digits, for records that must not hold the unit itself."""
    return xxh3_64_hexdigest(f"{salt}\x1fpseudonym\x1f{unit}".encode())
