"""Who may do what: a versioned list that expires, whose next version its owners sign.

A gateway is given one version by its own administrator and pins it. From there on it takes a version n+1
that enough owners of version n signed, and enough of its own owners (the root rule of TUF, section 5.3), so
that a key can be revoked and people can change without touching any gateway, and no older list comes back.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from protos.contract.digest import JsonMalformed, canonical_json, parse_json_object
from protos.contract.envelope import AnyEnvelope, AttestationInvalid, Signature, SignedPayload, signed_by
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.keys import KeyInvalid, PublicKey, enrolled_key

if TYPE_CHECKING:
    from protos import traffic_pb2

OPERATORS_TYPE = "application/vnd.interlock.operators+json"
ROLES = ("viewer", "operator", "approver", "steward", "auditor", "owner")
MOST_PEOPLE = 256
MOST_REVOKED = 1024
LAST = 2**40  # Unix seconds, far away


@dataclass(frozen=True, slots=True)
class Operator:
    """One person, the roles they hold and their public keys."""

    person: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """A key that counts no more: what it signed stands only if the ledger recorded it below entry ``since``.

    The ledger's order decides and not the clock of whoever holds the key.
    """

    key: str
    since: int


@dataclass(frozen=True, slots=True)
class Operators:
    """Who may approve, and how many it takes.

    Attributes:
        required_approvals: People a forward move needs.
        required_owners: Owners who have to sign the next version.
        expires: Unix seconds after which no weight may rise on this list's word; 0: never.
    """

    version: int
    required_approvals: int
    people: tuple[Operator, ...]
    required_owners: int = 1
    expires: int = 0
    revoked: tuple[Revoked, ...] = ()

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read operators; raises FieldInvalid or KeyInvalid. One key under two names is refused."""
        read = Reader(value, "operators")
        people = tuple(_person(item, f"operators.people[{i}]") for i, item in enumerate(read.items("people")))
        if len(people) > MOST_PEOPLE:
            raise FieldInvalid(f"operators.people has {len(people)} people, expected up to {MOST_PEOPLE}")
        _check_keys(people)
        if len({operator.person for operator in people}) != len(people):
            raise FieldInvalid("operators.people names a person twice")
        operators = cls(
            version=read.integer("version", 1, 2**31),
            required_approvals=read.integer("required_approvals", 1, 16),
            people=people,
            required_owners=read.integer("required_owners", 1, 16, 1),
            expires=read.integer("expires", 0, LAST, 0),
            revoked=tuple(_revoked(item, i) for i, item in enumerate(read.items("revoked", []))),
        )
        read.done()
        if len(operators.revoked) > MOST_REVOKED:
            raise FieldInvalid(f"operators.revoked has {len(operators.revoked)} keys, expected up to {MOST_REVOKED}")
        owners = operators.owners()
        if owners and len(owners) < operators.required_owners:
            raise FieldInvalid(
                f"operators.required_owners is {operators.required_owners}, expected up to the {len(owners)} there are"
            )
        return operators

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an operators file, bare or signed; raises FieldInvalid, KeyInvalid or JsonMalformed.

        A signed one has to be signed by its own owners; that it is the right one is for whoever put it there.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FieldInvalid(f"{path}: operators file cannot be read: {error.strerror}") from error
        return _read(data, path)  # type: ignore[return-value]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "version": self.version,
            "required_approvals": self.required_approvals,
            "required_owners": self.required_owners,
            "expires": self.expires,
            "people": [{"person": p.person, "roles": list(p.roles), "keys": list(p.keys)} for p in self.people],
            "revoked": [{"key": r.key, "since": r.since} for r in self.revoked],
        }

    def keys(self) -> list[PublicKey]:
        """Return every enrolled key, revoked ones included: what they signed before may still stand."""
        return [enrolled_key(key, "operators.keys") for person in self.people for key in person.keys]

    def owner(self, key: PublicKey) -> Operator | None:
        """Return whose key this is."""
        return next((p for p in self.people if key.text in p.keys), None)

    def revoked_since(self, key: str) -> int | None:
        """Return the ledger entry from which a key counts no more; None while it counts."""
        return min((r.since for r in self.revoked if r.key == key), default=None)

    def owners(self) -> list[Operator]:
        """Return the people who may sign the next version."""
        return [p for p in self.people if "owner" in p.roles]

    def is_expired(self, now: int) -> bool:
        """Say whether this list is out of date at Unix seconds ``now``."""
        return bool(self.expires) and now >= self.expires


@lru_cache(8)
def _read(data: bytes, path: Path) -> Operators:
    """Read a list of people; the same bytes, which are read for every move, are parsed once."""
    value = parse_json_object(data)
    if "payload" not in value:
        return Operators.from_json(value)
    envelope = envelope_from_json(value)
    operators = Operators.from_json(parse_json_object(envelope.payload))
    try:
        check_owners(envelope, operators)
    except AttestationInvalid as error:
        raise FieldInvalid(f"{path}: {error}") from error
    return operators


def next_version(current: Operators, envelope: AnyEnvelope) -> Operators:
    """Read the version that follows ``current``.

    Raises:
        AttestationInvalid: ``operators_invalid``: not the next version, or not signed by enough owners.
    """
    try:
        following = Operators.from_json(parse_json_object(envelope.payload))
    except (FieldInvalid, KeyInvalid, JsonMalformed) as error:
        raise AttestationInvalid("operators_invalid", str(error)) from error
    if following.version != current.version + 1:
        raise AttestationInvalid(
            "operators_invalid", f"operators version is {following.version}, expected {current.version + 1}"
        )
    check_owners(envelope, current)
    check_owners(envelope, following)
    return following


def check_owners(envelope: AnyEnvelope, operators: Operators) -> None:
    """Return when enough owners of ``operators`` signed; counted by person; raises AttestationInvalid."""
    owners = {
        enrolled_key(key, "operators.keys"): p.person
        for p in operators.owners()
        for key in p.keys
        if operators.revoked_since(key) is None
    }
    people = {owners[key] for key in signed_by(envelope, OPERATORS_TYPE, owners)}
    if len(people) < operators.required_owners:
        names = ", ".join(sorted(people)) or "nobody"
        raise AttestationInvalid(
            "operators_invalid",
            f"operators are signed by {names}, expected {operators.required_owners} owners of version "
            f"{operators.version}",
        )


def follow(pinned: Operators, updates: Sequence[AnyEnvelope]) -> Operators:
    """Apply, in order, the updates that follow ``pinned``; older ones are passed over.

    Raises:
        AttestationInvalid: An update that should follow does not.
    """
    current = pinned
    for envelope in updates:
        if _version_of(envelope) > current.version:
            current = next_version(current, envelope)
    return current


def envelope_from_json(value: dict[str, Any]) -> "traffic_pb2.Envelope":
    """Read DSSE's JSON form; raises FieldInvalid."""
    from protos import traffic_pb2

    found = signed_payload(value)
    signatures = [traffic_pb2.Signature(key_id=one.key_id, sig=one.sig) for one in found.signatures]
    return traffic_pb2.Envelope(payload=found.payload, payload_type=found.payload_type, signatures=signatures)


def signed_payload(value: dict[str, Any]) -> SignedPayload:
    """Read DSSE's JSON form where there are no message classes; raises FieldInvalid."""
    read = Reader(value, "envelope")
    signatures = []
    try:
        payload, kind = base64.b64decode(read.text("payload"), validate=True), read.text("payloadType")
        for i, item in enumerate(read.items("signatures")):
            one = Reader(item, f"envelope.signatures[{i}]")
            signatures.append(Signature(one.text("keyid", ""), base64.b64decode(one.text("sig"), validate=True)))
            one.done()
    except binascii.Error as error:
        raise FieldInvalid(f"envelope: not base64: {error}") from error
    read.done()
    return SignedPayload(payload, kind, tuple(signatures))


def envelope_to_json(envelope: "traffic_pb2.Envelope") -> dict[str, Any]:
    """Write an envelope in DSSE's JSON form."""
    return {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [{"keyid": s.key_id, "sig": base64.b64encode(s.sig).decode()} for s in envelope.signatures],
    }


def operators_envelope(operators: Operators) -> "traffic_pb2.Envelope":
    """Return an unsigned envelope, for owners to add their signatures to."""
    from protos import traffic_pb2

    return traffic_pb2.Envelope(payload=canonical_json(operators.to_json()), payload_type=OPERATORS_TYPE)


def _version_of(envelope: AnyEnvelope) -> int:
    try:
        version = parse_json_object(envelope.payload).get("version")
    except JsonMalformed as error:
        raise AttestationInvalid("operators_invalid", str(error)) from error
    if not isinstance(version, int):
        raise AttestationInvalid("operators_invalid", f"operators version is {version!r}, expected a number")
    return version


def _person(item: Any, where: str) -> Operator:
    read = Reader(item, where)
    operator = Operator(read.text("person"), read.texts("roles"), read.texts("keys"))
    read.done()
    for role in operator.roles:
        if role not in ROLES:
            raise FieldInvalid(f"{where}.roles has {role!r}, expected {', '.join(ROLES)}")
    return Operator(
        operator.person, operator.roles, tuple(enrolled_key(k, f"{where}.keys").text for k in operator.keys)
    )


def _revoked(item: Any, i: int) -> Revoked:
    where = f"operators.revoked[{i}]"
    read = Reader(item, where)
    revoked = Revoked(enrolled_key(read.text("key"), f"{where}.key").text, read.integer("since", 0, 2**53))
    read.done()
    return revoked


def _check_keys(people: Sequence[Operator]) -> None:
    """Refuse one key under two names, whatever way it is written."""
    owner_of: dict[bytes, str] = {}
    for operator in people:
        for text in operator.keys:
            key = enrolled_key(text, "operators.keys")
            if key.material in owner_of:
                raise FieldInvalid(
                    f"operators: {key.text} is enrolled for {owner_of[key.material]!r} and {operator.person!r}"
                )
            owner_of[key.material] = operator.person
