"""Approvals: a named person's dated statement about one change of live traffic, and who signed it.

Sources: in-toto Statement v1, RFC 8785; what a signed record has to show, 21 CFR 11.50. Envelopes are in
``envelope.py``, keys in ``keys.py`` and ``sshsig.py``, people in ``operators.py``; their names are at hand here.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_bytes, parse_json_object
from protos.contract.envelope import (
    AnyEnvelope,
    AttestationInvalid,
    add_signature,
    pre_authentication_encoding,
    sign,
    signed_by,
    signer_of,
)
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.keys import (
    KeyInvalid,
    PublicKey,
    enrolled_key,
    generate_key,
    parse_public,
    public_text,
    read_private,
    read_public,
)
from protos.contract.operators import ROLES, Operator, Operators

if TYPE_CHECKING:
    from protos import traffic_pb2

__all__ = [
    "APPROVAL",
    "ROLES",
    "Approval",
    "AttestationInvalid",
    "KeyInvalid",
    "Operator",
    "Operators",
    "PublicKey",
    "add_signature",
    "enrolled_key",
    "generate_key",
    "parse_public",
    "pre_authentication_encoding",
    "public_text",
    "read_private",
    "read_public",
    "sign",
    "sign_approval",
    "signed_by",
    "signer_of",
    "verify_approval",
]

PLAN_TYPE = "application/vnd.interlock.plan+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
APPROVAL = "urn:interlock:approval:v1"
SUBJECTS = ("bundle", "evidence", "suite", "from-plan", "to-plan")
STEPS = ("bootstrap", "canary", "primary")
MEANING = "I reviewed the evidence and approve this change of live traffic"


@dataclass(frozen=True, slots=True)
class Approval:
    """A named person's dated yes to one change, bound to what it changes by digest.

    Attributes:
        from_split, to_split: Digests of the specialist's part of the plan before and after, weights left out.
        ceiling_bp: Most basis points the bundle may answer on the word of this.
        stages_bp: The only weights it allows; empty: every weight up to the ceiling.
        not_before: Unix seconds when it was signed and begins to count; ``expires`` when it ends.
        nonce: Random, so that two statements are never the same.
        digest: Of the signed bytes; ``key`` made the signature. Both are found, not stated.
    """

    person: str
    specialist: str
    rollout: str
    step: str
    bundle: str
    evidence: str
    suite: str
    from_split: str
    to_split: str
    ceiling_bp: int
    audience: str
    not_before: int  # Unix seconds
    expires: int
    nonce: str
    author: str
    reason: str
    stages_bp: tuple[int, ...] = ()
    digest: str = ""
    key: str = ""

    def to_statement(self) -> dict[str, Any]:
        """Return the in-toto statement a person signs."""
        named = (self.bundle, self.evidence, self.suite, self.from_split, self.to_split)
        return {
            "_type": STATEMENT,
            "subject": [
                {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
                for name, digest in zip(SUBJECTS, named, strict=True)
            ],
            "predicateType": APPROVAL,
            "predicate": {
                "decision": "approve",
                "meaning": MEANING,
                "person": self.person,
                "specialist": self.specialist,
                "rollout": self.rollout,
                "step": self.step,
                "ceiling_bp": self.ceiling_bp,
                "stages_bp": list(self.stages_bp),
                "audience": self.audience,
                "not_before": self.not_before,
                "expires": self.expires,
                "nonce": self.nonce,
                "author": self.author,
                "reason": self.reason,
            },
        }

    @classmethod
    def from_statement(cls, payload: bytes) -> Self:
        """Read exactly the bytes that were signed; raises FieldInvalid, JsonMalformed or DigestMalformed."""
        read = Reader(parse_json_object(payload), "statement")
        read.text("_type", choices=(STATEMENT,))
        read.text("predicateType", choices=(APPROVAL,))
        subjects = {}
        for i, item in enumerate(read.items("subject")):
            subject = Reader(item, f"statement.subject[{i}]")
            name = subject.text("name", choices=SUBJECTS)
            digests = Reader(subject.object("digest"), f"statement.subject[{i}].digest")
            if name in subjects:
                raise FieldInvalid(f"statement.subject names {name!r} twice")
            subjects[name] = "sha256:" + digests.text("sha256")
            digests.done()
            subject.done()
        missing = [name for name in SUBJECTS if name not in subjects]
        if missing:
            raise FieldInvalid(f"statement.subject lacks {', '.join(missing)}")
        said = Reader(read.object("predicate"), "statement.predicate")
        read.done()
        said.text("decision", choices=("approve",))
        said.text("meaning", choices=(MEANING,))
        approval = cls(
            person=said.text("person"),
            specialist=said.text("specialist"),
            rollout=said.text("rollout"),
            step=said.text("step", choices=STEPS),
            bundle=subjects["bundle"],
            evidence=subjects["evidence"],
            suite=subjects["suite"],
            from_split=subjects["from-plan"],
            to_split=subjects["to-plan"],
            ceiling_bp=said.integer("ceiling_bp", 1, 10_000),
            audience=said.text("audience"),
            not_before=said.integer("not_before", 0, 2**40),
            expires=said.integer("expires", 0, 2**40),
            nonce=said.text("nonce"),
            author=said.text("author"),
            reason=said.text("reason"),
            stages_bp=_stages(said.items("stages_bp")),
            digest=digest_bytes(payload),
        )
        said.done()
        return approval


def sign_approval(approval: Approval, key: Ed25519PrivateKey) -> "traffic_pb2.Envelope":
    """Sign an approval as its person."""
    return sign(approval_payload(approval), STATEMENT_TYPE, key)


def approval_payload(approval: Approval) -> bytes:
    """Return the bytes a person's signature covers, inside DSSE's encoding."""
    return canonical_json(approval.to_statement())


def verify_approval(envelope: AnyEnvelope, operators: Operators) -> Approval:
    """Check that an enrolled approver signed this approval in their own name.

    Whether a revoked key signed it in time is for whoever knows where the ledger has it: ``Approval.key``.

    Raises:
        AttestationInvalid: ``signature_invalid``, ``malformed``, ``approver_unknown``,
            ``approver_not_allowed`` or ``self_approval``.
    """
    key = signer_of(envelope, STATEMENT_TYPE, operators.keys())
    owner = operators.owner(key)
    if owner is None:
        raise AttestationInvalid("approver_unknown", "the signing key belongs to nobody enrolled")
    try:
        approval = Approval.from_statement(envelope.payload)
    except (FieldInvalid, JsonMalformed, DigestMalformed) as error:
        raise AttestationInvalid("malformed", str(error)) from error
    if approval.person != owner.person:
        raise AttestationInvalid(
            "approver_unknown", f"the statement names {approval.person!r}, but {owner.person!r} signed it"
        )
    if "approver" not in owner.roles:
        raise AttestationInvalid("approver_not_allowed", f"{owner.person!r} does not hold the role 'approver'")
    if approval.author == owner.person:
        raise AttestationInvalid("self_approval", f"{owner.person!r} is the candidate's author")
    return replace(approval, key=key.text)


def _stages(found: list[Any]) -> tuple[int, ...]:
    if not all(isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= 10_000 for s in found):
        raise FieldInvalid(f"statement.predicate.stages_bp is {found}, expected whole numbers from 1 to 10000")
    return tuple(found)
