"""A person's order to leave a bundle at once: what a gateway obeys with everything else away.

It can only make things safer: the bundle named answers nobody any more and the one before it, approved
once, answers instead. One person is enough.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from protos import traffic_pb2
from protos.contract.attestation import STATEMENT, STATEMENT_TYPE
from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_bytes, parse_json_object
from protos.contract.envelope import AttestationInvalid, signer_of
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.operators import Operators
from protos.contract.plan import Split

ROLLBACK = "urn:interlock:rollback:v1"
MAY_ROLL_BACK = ("operator", "approver", "owner")
CLOCK_SKEW_S = 300


@dataclass(frozen=True, slots=True)
class RollbackOrder:
    """Who orders which bundle of a specialist to be left, where, why and until when.

    ``digest`` is of the signed bytes.
    """

    person: str
    specialist: str
    bundle: str
    audience: str
    not_before: int  # Unix seconds
    expires: int
    nonce: str
    reason: str
    digest: str = ""

    def payload(self) -> bytes:
        """Return the bytes a person signs, inside DSSE's encoding."""
        return canonical_json(
            {
                "_type": STATEMENT,
                "subject": [{"name": "bundle", "digest": {"sha256": self.bundle.removeprefix("sha256:")}}],
                "predicateType": ROLLBACK,
                "predicate": {
                    "person": self.person,
                    "specialist": self.specialist,
                    "audience": self.audience,
                    "not_before": self.not_before,
                    "expires": self.expires,
                    "nonce": self.nonce,
                    "reason": self.reason,
                },
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Read exactly the bytes that were signed; raises FieldInvalid, JsonMalformed or DigestMalformed."""
        read = Reader(parse_json_object(payload), "order")
        read.text("_type", choices=(STATEMENT,))
        read.text("predicateType", choices=(ROLLBACK,))
        subjects = read.items("subject")
        if len(subjects) != 1:
            raise FieldInvalid(f"order.subject names {len(subjects)}, expected one bundle")
        subject = Reader(subjects[0], "order.subject[0]")
        subject.text("name", choices=("bundle",))
        digest = Reader(subject.object("digest"), "order.subject[0].digest")
        said = Reader(read.object("predicate"), "order.predicate")
        order = cls(
            person=said.text("person"),
            specialist=said.text("specialist"),
            bundle="sha256:" + digest.text("sha256"),
            audience=said.text("audience"),
            not_before=said.integer("not_before", 0, 2**40),
            expires=said.integer("expires", 0, 2**40),
            nonce=said.text("nonce"),
            reason=said.text("reason"),
            digest=digest_bytes(payload),
        )
        for part in (read, subject, digest, said):
            part.done()
        return order


def verify_order(
    envelope: traffic_pb2.Envelope, operators: Operators, deployment: str, now: int | None
) -> RollbackOrder:
    """Check that somebody who may signed this order, for this deployment and for now.

    Args:
        now: Unix seconds; None for an order that was carried out already.
    Raises:
        AttestationInvalid: With a closed reason.
    """
    key = signer_of(envelope, STATEMENT_TYPE, operators.keys())
    owner = operators.owner(key)
    try:
        order = RollbackOrder.from_payload(envelope.payload)
    except (FieldInvalid, JsonMalformed, DigestMalformed) as error:
        raise AttestationInvalid("malformed", str(error)) from error
    if owner is None or order.person != owner.person:
        raise AttestationInvalid("approver_unknown", f"the order names {order.person!r}, who did not sign it")
    if not set(owner.roles) & set(MAY_ROLL_BACK):
        raise AttestationInvalid(
            "approver_not_allowed", f"{owner.person!r} holds none of the roles {', '.join(MAY_ROLL_BACK)}"
        )
    if operators.revoked_since(key.text) is not None:
        raise AttestationInvalid("key_revoked", f"the key of {owner.person!r} was revoked")
    if order.audience != deployment:
        raise AttestationInvalid("wrong_audience", f"the order is for {order.audience!r}, expected {deployment!r}")
    if now is not None and now >= order.expires:
        raise AttestationInvalid("approval_expired", "the order has expired")
    if now is not None and now + CLOCK_SKEW_S < order.not_before:
        raise AttestationInvalid("approval_not_yet_valid", "the order counts only from a later time")
    return order


def leave(split: Split, bundle: str) -> Split | None:
    """Return the split without ``bundle``; None when it holds none of it or there is nothing to go back to."""
    away = replace(split, candidate=None, canary_bp=0, shadow_bp=0)
    if bundle == split.primary:
        return None if split.previous in (None, bundle) else replace(away, primary=split.previous, previous=None)
    return away if bundle == split.candidate else None


def order_summary(order: RollbackOrder) -> dict[str, Any]:
    """Return what a ledger entry says of an order."""
    return {
        "statement": order.digest,
        "person": order.person,
        "specialist": order.specialist,
        "bundle": order.bundle,
        "reason": order.reason,
    }
