"""Who signed what: DSSE envelopes, Ed25519 keys, operators, and approvals as in-toto statements.

Sources: DSSE v1 (secure-systems-lab/dsse), in-toto Statement v1, RFC 8785, RFC 8032.
Key ids in envelopes are hints; every enrolled key is tried and people, not ids, are counted.
"""

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos import traffic_pb2
from protos.contract.digest import DigestMalformed, JsonMalformed, canonical_json, digest_bytes, parse_json_object
from protos.contract.fields import FieldInvalid, Reader

PLAN_TYPE = "application/vnd.interlock.plan+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
APPROVAL = "urn:interlock:approval:v1"
SUBJECTS = ("bundle", "evidence", "suite", "from-split", "to-split")
STEPS = ("bootstrap", "canary", "primary")
ROLES = ("approver", "operator", "auditor")
MEANING = "I reviewed the evidence and approve this change of live traffic"
MAX_SIGNATURES = 16


class AttestationInvalid(Exception):
    """A signature, key or statement cannot be relied on. ``reason`` is a closed code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KeyInvalid(ValueError):
    """A key file is missing or not an Ed25519 key."""


def public_text(key: Ed25519PublicKey) -> str:
    """Write a public key as ``ed25519:`` and base64 of its 32 bytes."""
    return "ed25519:" + base64.b64encode(key.public_bytes_raw()).decode()


def parse_public(text: str, where: str) -> Ed25519PublicKey:
    """Read what ``public_text`` wrote; raises KeyInvalid naming ``where``."""
    kind, _, encoded = text.strip().partition(":")
    try:
        raw = base64.b64decode(encoded, validate=True)
        if kind != "ed25519" or len(raw) != 32:
            raise ValueError("wrong kind or length")
        return Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, binascii.Error) as error:
        raise KeyInvalid(f"{where} is {text[:60]!r}, expected 'ed25519:' and base64 of 32 bytes") from error


def generate_key(path: Path) -> Ed25519PublicKey:
    """Write a new private key (PEM, mode 0600) and its ``.pub`` beside it; refuses to overwrite."""
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    path.with_name(path.name + ".pub").write_text(public_text(key.public_key()) + "\n")
    return key.public_key()


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key file; raises KeyInvalid."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyInvalid(f"{path}: not a readable Ed25519 private key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyInvalid(f"{path}: holds {type(key).__name__}, expected an Ed25519 private key")
    return key


def read_public(path: Path) -> Ed25519PublicKey:
    """Read a ``.pub`` file; raises KeyInvalid."""
    try:
        return parse_public(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise KeyInvalid(f"{path}: cannot be read: {error}") from error


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes DSSE signs."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> traffic_pb2.Envelope:
    """Put a payload and one signature into an envelope."""
    envelope = traffic_pb2.Envelope(payload=payload, payload_type=payload_type)
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    envelope.signatures.add(key_id=digest_bytes(key.public_key().public_bytes_raw()), sig=signature)
    return envelope


def signer_of(envelope: traffic_pb2.Envelope, payload_type: str, keys: Iterable[Ed25519PublicKey]) -> Ed25519PublicKey:
    """Return the first of ``keys`` that signed the envelope.

    Raises:
        AttestationInvalid: Another payload type, too many signatures, or none of ``keys`` signed.
    """
    if envelope.payload_type != payload_type:
        raise AttestationInvalid(
            "malformed", f"payload type is {envelope.payload_type[:60]!r}, expected {payload_type!r}"
        )
    if not 0 < len(envelope.signatures) <= MAX_SIGNATURES:
        raise AttestationInvalid("malformed", f"{len(envelope.signatures)} signatures, expected 1 to {MAX_SIGNATURES}")
    signed = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    for key in keys:
        for signature in envelope.signatures:
            try:
                key.verify(signature.sig, signed)
            except InvalidSignature:
                continue
            return key
    raise AttestationInvalid("signature_invalid", "no enrolled key made any signature on this envelope")


@dataclass(frozen=True, slots=True)
class Operator:
    """One person, the roles they hold and their public keys."""

    person: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operators:
    """Who may approve, and how many it takes. A gateway is given this file by its own administrator."""

    version: int
    required_approvals: int
    people: tuple[Operator, ...]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read operators; raises FieldInvalid or KeyInvalid. One key under two names is refused."""
        read = Reader(value, "operators")
        people = []
        owner_of: dict[str, str] = {}
        for i, item in enumerate(read.items("people")):
            person = Reader(item, f"operators.people[{i}]")
            operator = Operator(person.text("person"), person.texts("roles"), person.texts("keys"))
            person.done()
            for role in operator.roles:
                if role not in ROLES:
                    raise FieldInvalid(f"operators.people[{i}].roles has {role!r}, expected {', '.join(ROLES)}")
            for key in operator.keys:
                raw = public_text(parse_public(key, f"operators.people[{i}].keys"))
                if raw in owner_of:
                    raise FieldInvalid(f"operators: {raw} is enrolled for {owner_of[raw]!r} and {operator.person!r}")
                owner_of[raw] = operator.person
            people.append(operator)
        if len({operator.person for operator in people}) != len(people):
            raise FieldInvalid("operators.people names a person twice")
        operators = cls(
            version=read.integer("version", 1, 2**31),
            required_approvals=read.integer("required_approvals", 1, 16),
            people=tuple(people),
        )
        read.done()
        return operators

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an operators file; raises FieldInvalid, KeyInvalid or JsonMalformed."""
        try:
            return cls.from_json(parse_json_object(path.read_bytes()))
        except OSError as error:
            raise FieldInvalid(f"{path}: operators file cannot be read: {error.strerror}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "version": self.version,
            "required_approvals": self.required_approvals,
            "people": [{"person": p.person, "roles": list(p.roles), "keys": list(p.keys)} for p in self.people],
        }

    def owner(self, key: Ed25519PublicKey) -> Operator | None:
        """Return whose key this is."""
        text = public_text(key)
        return next((p for p in self.people if text in p.keys), None)

    def keys(self) -> list[Ed25519PublicKey]:
        """Return every enrolled key."""
        return [parse_public(key, "operators.keys") for person in self.people for key in person.keys]


@dataclass(frozen=True, slots=True)
class Approval:
    """A named person's dated yes to one change, bound to what it changes by digest."""

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
    digest: str = ""

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
        said.text("meaning")
        approval = cls(
            person=said.text("person"),
            specialist=said.text("specialist"),
            rollout=said.text("rollout"),
            step=said.text("step", choices=STEPS),
            bundle=subjects["bundle"],
            evidence=subjects["evidence"],
            suite=subjects["suite"],
            from_split=subjects["from-split"],
            to_split=subjects["to-split"],
            ceiling_bp=said.integer("ceiling_bp", 1, 10_000),
            audience=said.text("audience"),
            not_before=said.integer("not_before", 0, 2**40),
            expires=said.integer("expires", 0, 2**40),
            nonce=said.text("nonce"),
            author=said.text("author"),
            reason=said.text("reason"),
            digest=digest_bytes(payload),
        )
        said.done()
        return approval


def sign_approval(approval: Approval, key: Ed25519PrivateKey) -> traffic_pb2.Envelope:
    """Sign an approval as its person."""
    return sign(canonical_json(approval.to_statement()), STATEMENT_TYPE, key)


def verify_approval(envelope: traffic_pb2.Envelope, operators: Operators) -> Approval:
    """Check that an enrolled approver signed this approval in their own name.

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
    return approval
