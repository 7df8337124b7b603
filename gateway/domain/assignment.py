"""Key to arm: which bundle answers a unit, and which one only watches."""

from dataclasses import dataclass
from enum import IntEnum

from protos.contract.draws import Draw, bucket
from protos.contract.plan import Split


class Arm(IntEnum):
    """Which share of the traffic a unit fell into. Values are those of ``interlock.v1.Arm``."""

    PRIMARY = 1
    BASELINE = 2
    CANARY = 3
    HOLDBACK = 4
    OVERRIDE = 5  # never drawn: a tester named the bundle


@dataclass(frozen=True, slots=True)
class Assignment:
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
    place = bucket(split.salt, Draw.CANARY, unit)
    is_captured = bucket(split.salt, Draw.CAPTURE, unit) < split.capture_bp
    if split.holdback_bp and bucket(split.salt, Draw.HOLDBACK, unit) < split.holdback_bp:
        return Assignment(Arm.HOLDBACK, split.primary, None, is_captured, place)
    if split.candidate is not None and place < split.canary_bp:
        return Assignment(Arm.CANARY, split.candidate, None, is_captured, place)
    arm = Arm.BASELINE if place < 2 * split.canary_bp else Arm.PRIMARY
    is_watched = split.candidate is not None and bucket(split.salt, Draw.SHADOW, unit) < split.shadow_bp
    return Assignment(arm, split.primary, split.candidate if is_watched else None, is_captured, place)


def override(split: Split, wanted: str, unit: str) -> Assignment | None:
    """Assign a unit to the bundle that a tester named: ``primary``, ``candidate`` or a digest in the split.

    None when the split has no such bundle. Such a call is watched by nobody and recorded nowhere.
    """
    named = {"primary": split.primary, "candidate": split.candidate}.get(wanted, wanted)
    if named is None or named not in (split.primary, split.candidate, split.previous):
        return None
    return Assignment(Arm.OVERRIDE, named, None, False, bucket(split.salt, Draw.CANARY, unit))
