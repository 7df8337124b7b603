"""May this plan follow that one? Both sides ask before they publish or apply.

The rule: no bundle answers callers without valid approvals of that bundle, by enough
people, up to a ceiling its weight does not exceed. A weight that rises needs approvals
that are in force now and speak of exactly this change. A weight that stays or falls
needs none to be fresh, and the way back to ``previous`` was approved in advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos import traffic_pb2
from protos.contract.attestation import (
    PLAN_TYPE,
    Approval,
    AttestationInvalid,
    Operators,
    sign,
    signer_of,
    verify_approval,
)
from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_json, parse_json_object
from protos.contract.draws import BASIS_POINTS
from protos.contract.fields import FieldInvalid
from protos.contract.plan import Split, TrafficPlan

CLOCK_SKEW_S = 300


class PlanRefused(Exception):
    """A plan may not be applied. ``reason`` is a closed code, the message is for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of verifying approvals: the good ones, and why each bad one is bad."""

    good: tuple[Approval, ...]
    bad: tuple[AttestationInvalid, ...]


def to_split_digest(split: Split, ceiling_bp: int) -> str:
    """Name the change a person approves: who could answer, and up to how much."""
    return digest_json({**split.shape(), "ceiling_bp": ceiling_bp})


def no_split_digest(specialist: str) -> str:
    """Name the state before a specialist's first plan."""
    return digest_json({"specialist": specialist, "primary": None})


def sign_plan(plan: TrafficPlan, key: Ed25519PrivateKey) -> traffic_pb2.Envelope:
    """Sign a plan as its control plane."""
    return sign(canonical_json(plan.to_json()), PLAN_TYPE, key)


def open_plan(envelope: traffic_pb2.Envelope, key: Ed25519PublicKey) -> TrafficPlan:
    """Verify a plan's signature, then read exactly the bytes that were signed.

    Raises:
        PlanRefused: ``signature_invalid`` or ``malformed``.
    """
    try:
        signer_of(envelope, PLAN_TYPE, [key])
        return TrafficPlan.from_json(parse_json_object(envelope.payload))
    except AttestationInvalid as error:
        raise PlanRefused(error.reason, f"plan: {error}") from error
    except (FieldInvalid, DigestMalformed, JsonMalformed) as error:
        raise PlanRefused("malformed", str(error)) from error


def check_approvals(envelopes: Sequence[traffic_pb2.Envelope], operators: Operators) -> Checked:
    """Verify every approval that came with a plan."""
    good, bad = [], []
    for envelope in envelopes:
        try:
            good.append(verify_approval(envelope, operators))
        except AttestationInvalid as error:
            bad.append(error)
    return Checked(tuple(good), tuple(bad))


def check_plan(
    current: TrafficPlan | None,
    proposed: TrafficPlan,
    approvals: Checked,
    operators: Operators,
    deployment: str,
    now: int,
    *,
    was_in_force: bool = False,
) -> None:
    """Return when ``proposed`` may follow ``current``.

    Args:
        current: The plan in force; None at a gateway that has none. Such a gateway cannot tell a weight
            that rises from one that stayed: it takes a primary that was ever approved in full, and judges
            a canary's expiry at the plan's own time, so that replicas can join later.
        now: Unix seconds.
        was_in_force: This gateway applied ``proposed`` before it restarted; no weight in it rises.
    Raises:
        PlanRefused: With the most specific reason found.
    """
    if proposed.deployment != deployment:
        raise PlanRefused("wrong_deployment", f"plan is for {proposed.deployment!r}, this is {deployment!r}")
    if current is not None and proposed.generation <= current.generation:
        raise PlanRefused(
            "stale_generation", f"generation {proposed.generation} after {current.generation}, expected a higher one"
        )
    for split in proposed.splits:
        before = current.split_for(split.specialist) if current is not None else None
        judged_at = now if current is not None else min(now, proposed.created_at)
        for bundle, weight in split.exposure().items():
            is_rising = not was_in_force and weight > (before.exposure().get(bundle, 0) if before else 0)
            is_way_back = before is not None and bundle in (before.previous, before.primary) and weight == BASIS_POINTS
            is_serving = current is None and bundle == split.primary
            is_judged = is_rising and not is_way_back and not is_serving
            _check_bundle(
                split, before, bundle, weight, approvals, operators, deployment, judged_at if is_judged else None
            )


def _check_bundle(
    split: Split,
    before: Split | None,
    bundle: str,
    weight: int,
    approvals: Checked,
    operators: Operators,
    deployment: str,
    judged_at: int | None,
) -> None:
    """Check one bundle's weight; with ``judged_at`` also that its approvals are of this change and in force then."""
    what = f"{split.specialist!r}: {weight} bp for {bundle}"
    mine = [a for a in approvals.good if a.bundle == bundle and a.specialist == split.specialist]
    if not mine:
        if approvals.bad:
            raise PlanRefused(approvals.bad[0].reason, f"{what} rests on an approval that fails: {approvals.bad[0]}")
        raise PlanRefused("approval_missing", f"{what} has no approval")
    mine = [a for a in mine if a.audience == deployment]
    if not mine:
        raise PlanRefused("wrong_audience", f"{what} is approved for another deployment, expected {deployment!r}")
    enough = [a for a in mine if a.ceiling_bp >= weight]
    if not enough:
        highest = max(a.ceiling_bp for a in mine)
        raise PlanRefused("over_ceiling", f"{what} is over the approved ceiling of {highest} bp")
    if judged_at is not None:
        enough = _only_in_force(enough, split, before, what, judged_at)
    people = {a.person for a in enough}
    names = ", ".join(sorted(people))
    if len(people) < operators.required_approvals:
        raise PlanRefused(
            "too_few_approvers",
            f"{what} is approved by {len(people)} of {operators.required_approvals} people: {names}",
        )


def _only_in_force(
    approvals: list[Approval], split: Split, before: Split | None, what: str, now: int
) -> list[Approval]:
    exact = [a for a in approvals if a.to_split == to_split_digest(split, a.ceiling_bp)]
    if before is not None:
        known = {before.shape_digest(), no_split_digest(split.specialist)}
        exact = [a for a in exact if a.from_split in known or split.shape_digest() == before.shape_digest()]
    if not exact:
        raise PlanRefused("approval_mismatch", f"{what} is approved for another change than this one")
    started = [a for a in exact if a.not_before <= now + CLOCK_SKEW_S]
    if not started:
        raise PlanRefused("approval_not_yet_valid", f"{what} is approved only from a later time")
    valid = [a for a in started if now < a.expires]
    if not valid:
        raise PlanRefused("approval_expired", f"{what} rests on an approval that has expired")
    return valid
