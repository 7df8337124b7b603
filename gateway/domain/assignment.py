"""Key to arm: which bundle answers a unit, and which one only watches."""

from enum import IntEnum
from typing import NamedTuple

from protos.contract.draws import domains, place
from protos.contract.plan import Split


class Arm(IntEnum):
    """Which share of the traffic a unit fell into. Values are those of ``interlock.v1.Arm``."""

    PRIMARY = 1
    BASELINE = 2
    CANARY = 3
    HOLDBACK = 4
    OVERRIDE = 5  # never drawn: a tester named the bundle

    # Arms are keys on the request path, and Enum's own is written in Python.
    __hash__ = int.__hash__


class Assignment(NamedTuple):
    """What happens to one request: who answers, who watches, whether it is recorded."""

    arm: Arm
    bundle: str
    shadow: str | None
    is_captured: bool
    bucket: int


def assign(split: Split, unit: str) -> Assignment:
    """Choose the bundle that answers and the one, if any, that only watches.

    The same unit and split give the same answer on every host and after a restart.
    Raising ``canary_bp`` moves units towards the candidate and never back. Held-back units meet no
    model, through every canary; the bundle named for them is the one that would have answered.
    """
    canary, shadow, capture, holdback = domains(split.salt)
    key = unit.encode()
    drawn = place(canary, key)
    is_captured = place(capture, key) < split.capture_bp
    if split.holdback_bp and place(holdback, key) < split.holdback_bp:
        return Assignment(Arm.HOLDBACK, split.primary, None, is_captured, drawn)
    if split.candidate is not None and drawn < split.canary_bp:
        return Assignment(Arm.CANARY, split.candidate, None, is_captured, drawn)
    arm = Arm.BASELINE if drawn < 2 * split.canary_bp else Arm.PRIMARY
    is_watched = split.candidate is not None and split.shadow_bp and place(shadow, key) < split.shadow_bp
    return Assignment(arm, split.primary, split.candidate if is_watched else None, is_captured, drawn)


def override(split: Split, wanted: str, unit: str) -> Assignment | None:
    """Assign a unit to the bundle that a tester named: ``primary``, ``candidate`` or a digest in the split.

    None when the split has no such bundle. Such a call is watched by nobody and recorded nowhere.
    """
    named = {"primary": split.primary, "candidate": split.candidate}.get(wanted, wanted)
    if named is None or named not in (split.primary, split.candidate, split.previous):
        return None
    return Assignment(Arm.OVERRIDE, named, None, False, place(domains(split.salt)[0], unit.encode()))
