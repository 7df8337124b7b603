"""May this plan follow that one? Both sides ask before they publish or apply.

The rule: no bundle answers callers without valid approvals of that bundle, by enough
people, up to a ceiling its weight does not exceed. A weight that rises needs approvals
that are in force now and speak of exactly this change. A weight that stays or falls
needs none to be fresh, and the way back to ``previous`` was approved in advance: it is
what served before, never another bundle.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos.contract.attestation import (
    PLAN_TYPE,
    Approval,
    AttestationInvalid,
    Operators,
    enrolled_key,
    sign,
    signer_of,
    verify_approval,
)
from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_json, parse_json_object
from protos.contract.envelope import AnyEnvelope, native
from protos.contract.fields import FieldInvalid
from protos.contract.plan import BASIS_POINTS, Split, TrafficPlan

if TYPE_CHECKING:
    from protos import traffic_pb2

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


def sign_plan(plan: TrafficPlan, key: Ed25519PrivateKey) -> "traffic_pb2.Envelope":
    """Sign a plan as its control plane."""
    return sign(canonical_json(plan.to_json()), PLAN_TYPE, key)


def open_plan(envelope: AnyEnvelope, key: Ed25519PublicKey) -> TrafficPlan:
    """Verify a plan's signature, then read exactly the bytes that were signed.

    Raises:
        PlanRefused: ``signature_invalid`` or ``malformed``.
    """
    try:
        signer_of(envelope, PLAN_TYPE, [native(key)])
        return TrafficPlan.from_json(parse_json_object(envelope.payload))
    except AttestationInvalid as error:
        raise PlanRefused(error.reason, f"plan: {error}") from error
    except (FieldInvalid, DigestMalformed, JsonMalformed) as error:
        raise PlanRefused("malformed", str(error)) from error


def check_approvals(
    envelopes: Sequence[AnyEnvelope], operators: Operators, recorded: Mapping[str, int] | None
) -> Checked:
    """Verify every approval that came with a plan.

    Args:
        recorded: The ledger entry of each statement, proved to be under a signed head; None where the ledger
            itself is not at hand, which lets no revoked key count at all.
    """
    good, bad = [], []
    for envelope in envelopes:
        try:
            approval = verify_approval(envelope, operators)
            _check_recorded(approval, operators, recorded)
        except AttestationInvalid as error:
            bad.append(error)
        else:
            good.append(approval)
    return Checked(tuple(good), tuple(bad))


def _check_recorded(approval: Approval, operators: Operators, recorded: Mapping[str, int] | None) -> None:
    at = None if recorded is None else recorded.get(approval.digest)
    if recorded is not None and at is None:
        raise AttestationInvalid("approval_not_recorded", f"the ledger is not shown to hold {approval.digest}")
    check_key(approval, operators, at)


def check_key(approval: Approval, operators: Operators, at: int | None) -> None:
    """Refuse an approval whose key was revoked before the ledger had it, as its entry ``at``; None: it never had it.

    Raises:
        AttestationInvalid: ``key_revoked``.
    """
    since = operators.revoked_since(approval.key)
    if since is not None and (at is None or at >= since):
        raise AttestationInvalid(
            "key_revoked", f"a key of {approval.person!r} was revoked before it signed {approval.digest}"
        )


def check_plan(
    current: TrafficPlan | None,
    proposed: TrafficPlan,
    approvals: Checked,
    operators: Operators,
    deployment: str,
    now: int,
    *,
    was_in_force: bool = False,
    spent: Container[str] = (),
    author_of: Callable[[str], str | None] = lambda _: None,
    left: Callable[[Split], Split] = lambda split: split,
) -> None:
    """Return when ``proposed`` may follow ``current``.

    Args:
        current: The plan in force; None at a gateway that has none. Such a gateway cannot tell a weight
            that rises from one that stayed: it takes a primary that was ever approved in full, and judges
            a canary's expiry at the plan's own time, so that replicas can join later.
        now: Unix seconds.
        was_in_force: This gateway applied ``proposed`` before it restarted; no weight in it rises.
        spent: Digests of approvals whose weight was taken back; they raise nothing any more.
        author_of: Who made a bundle, by the bundle itself: that person approves none of it, whatever a
            statement says of its author.
        left: A split less what a person rolled back here. Such a bundle answers nobody, so its weight may rise
            in the plan as it does elsewhere; a weight that would be felt here rises from what is felt now.
    Raises:
        PlanRefused: With the most specific reason found.
    """
    if proposed.deployment != deployment:
        raise PlanRefused("wrong_deployment", f"plan is for {proposed.deployment!r}, this is {deployment!r}")
    if current is not None and proposed.generation <= current.generation:
        raise PlanRefused(
            "stale_generation", f"generation {proposed.generation} after {current.generation}, expected a higher one"
        )
    rules = _Rules(approvals, operators, deployment, spent, author_of)
    for split in proposed.splits:
        before = current.split_for(split.specialist) if current is not None else None
        judged_at = now if current is not None else min(now, proposed.created_at)
        felt = left(split).exposure()
        for bundle, weight in split.exposure().items():
            start = left(before) if before is not None and bundle in felt else before
            is_rising = not was_in_force and weight > (start.exposure().get(bundle, 0) if start else 0)
            is_way_back = bundle in _ways_back(start) and weight == BASIS_POINTS
            is_serving = current is None and bundle == split.primary
            is_judged = is_rising and not is_way_back and not is_serving
            rules.check_bundle(split, before, bundle, weight, judged_at if is_judged else None)
        if split.previous is not None:
            # One person alone can make it the primary: it has to be one that enough people approved in full,
            # and that served here, for an approval that has lapsed brings nothing back that never did.
            if current is not None and split.previous not in _ways_back(before):
                what = f"{split.specialist!r}: the way back is {split.previous}"
                raise PlanRefused("way_back_unknown", f"{what}, expected the primary or the way back so far")
            rules.check_bundle(split, before, split.previous, BASIS_POINTS, None)


def spent_by(before: TrafficPlan | None, after: TrafficPlan, approvals: Iterable[Approval]) -> list[Approval]:
    """Return the approvals whose bundle could answer callers before and cannot any more.

    The primary that a promotion replaced stays for as long as it is the way back.
    """
    found: list[Approval] = []
    for split in before.splits if before is not None else ():
        now = after.split_for(split.specialist)
        kept = set() if now is None else {*now.exposure(), now.previous}
        gone = {*split.exposure(), split.previous} - kept
        found += [a for a in approvals if a.specialist == split.specialist and a.bundle in gone]
    return found


def _ways_back(before: Split | None) -> tuple[str | None, ...]:
    return () if before is None else (before.primary, before.previous)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What one plan is judged by."""

    approvals: Checked
    operators: Operators
    deployment: str
    spent: Container[str]
    author_of: Callable[[str], str | None]

    def check_bundle(self, split: Split, before: Split | None, bundle: str, weight: int, judged_at: int | None) -> None:
        """Check one bundle's weight; with ``judged_at``, also that approvals are of this change and in force then."""
        what = f"{split.specialist!r}: {weight} bp for {bundle}"
        mine = self._of_bundle(split.specialist, bundle, what)
        enough = [a for a in mine if a.ceiling_bp >= weight]
        if not enough:
            highest = max(a.ceiling_bp for a in mine)
            raise PlanRefused("over_ceiling", f"{what} is over the approved ceiling of {highest} bp")
        if judged_at is not None:
            if self.operators.is_expired(judged_at):
                raise PlanRefused(
                    "operators_expired", f"{what} rises, but version {self.operators.version} of operators has expired"
                )
            enough = self._in_force(enough, split, before, what, weight, judged_at)
        people = {a.person for a in enough}
        count = min(len(people), len({enrolled_key(a.key, "approval").material for a in enough}))
        if count < self.operators.required_approvals:
            raise PlanRefused(
                "too_few_approvers",
                f"{what} is approved by {count} of {self.operators.required_approvals} people: "
                f"{', '.join(sorted(people))}",
            )

    def _of_bundle(self, specialist: str, bundle: str, what: str) -> list[Approval]:
        mine = [a for a in self.approvals.good if a.bundle == bundle and a.specialist == specialist]
        if not mine:
            self._refuse_bad(what)
            raise PlanRefused("approval_missing", f"{what} has no approval")
        mine = [a for a in mine if a.audience == self.deployment]
        if not mine:
            raise PlanRefused(
                "wrong_audience", f"{what} is approved for another deployment, expected {self.deployment!r}"
            )
        author = self.author_of(bundle)
        by_others = [a for a in mine if a.person != author]
        if not by_others:
            raise PlanRefused("self_approval", f"{what} is approved by {author!r} alone, who made it")
        return by_others

    def _refuse_bad(self, what: str) -> None:
        """Where none counts, say of one that does not why."""
        if self.approvals.bad:
            bad = self.approvals.bad[0]
            raise PlanRefused(bad.reason, f"{what} rests on an approval that fails: {bad}")

    def _in_force(
        self, approvals: list[Approval], split: Split, before: Split | None, what: str, weight: int, now: int
    ) -> list[Approval]:
        unspent = [a for a in approvals if a.digest not in self.spent]
        if not unspent:
            self._refuse_bad(what)
            raise PlanRefused("approval_spent", f"{what} was taken back before, and needs a new approval")
        exact = [a for a in unspent if a.to_split == to_split_digest(split, a.ceiling_bp)]
        if before is not None:
            known = {before.shape_digest(), no_split_digest(split.specialist)}
            exact = [a for a in exact if a.from_split in known or split.shape_digest() == before.shape_digest()]
        if not exact:
            raise PlanRefused("approval_mismatch", f"{what} is approved for another change than this one")
        staged = [a for a in exact if not a.stages_bp or weight in a.stages_bp]
        if not staged:
            stages = ", ".join(map(str, exact[0].stages_bp))
            raise PlanRefused("stage_not_approved", f"{what} is no approved stage, expected one of {stages} bp")
        started = [a for a in staged if a.not_before <= now + CLOCK_SKEW_S]
        if not started:
            raise PlanRefused("approval_not_yet_valid", f"{what} is approved only from a later time")
        valid = [a for a in started if now < a.expires]
        if not valid:
            raise PlanRefused("approval_expired", f"{what} rests on an approval that has expired")
        return valid
