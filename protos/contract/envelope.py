"""DSSE envelopes: a payload, its type, and signatures over both.

Source: DSSE v1 (secure-systems-lab/dsse). Key ids in envelopes are hints; every enrolled key is tried.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos.contract.digest import digest_bytes
from protos.contract.keys import PublicKey, enrolled_key, public_text

if TYPE_CHECKING:
    from protos import traffic_pb2

MAX_SIGNATURES = 16


class AnySignature(Protocol):
    """One signature of an envelope."""

    @property
    def key_id(self) -> str:
        """Whose it may be."""

    @property
    def sig(self) -> bytes:
        """The signature's bytes."""


class AnyEnvelope(Protocol):
    """An envelope, as a ``traffic.v1.Envelope`` is one and as a file of evidence is one."""

    @property
    def payload(self) -> bytes:
        """What was signed."""

    @property
    def payload_type(self) -> str:
        """What it is."""

    @property
    def signatures(self) -> Sequence[AnySignature]:
        """Over both."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; the key's id is a hint."""

    key_id: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """An envelope that needs no message classes."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


class AttestationInvalid(Exception):
    """A signature, key or statement cannot be relied on. ``reason`` is a closed code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes DSSE signs."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> "traffic_pb2.Envelope":
    """Put a payload and one signature into an envelope."""
    from protos import traffic_pb2

    envelope = traffic_pb2.Envelope(payload=payload, payload_type=payload_type)
    add_signature(envelope, key)
    return envelope


def add_signature(envelope: "traffic_pb2.Envelope", key: Ed25519PrivateKey) -> None:
    """Add one more signature over what the envelope holds."""
    signature = key.sign(pre_authentication_encoding(envelope.payload_type, envelope.payload))
    envelope.signatures.add(key_id=digest_bytes(key.public_key().public_bytes_raw()), sig=signature)


def signed_by(envelope: AnyEnvelope, payload_type: str, keys: Iterable[PublicKey]) -> list[PublicKey]:
    """Return those of ``keys`` that signed the envelope.

    Raises:
        AttestationInvalid: ``malformed``: another payload type, no signature or too many.
    """
    return list(_signers(envelope, payload_type, keys))


def signer_of(envelope: AnyEnvelope, payload_type: str, keys: Iterable[PublicKey]) -> PublicKey:
    """Return one of ``keys`` that signed the envelope: those that it hints at are tried first, then in their order.

    Raises:
        AttestationInvalid: Another payload type, too many signatures, or none of ``keys`` signed.
    """
    hints = {one.key_id for one in envelope.signatures}
    likely = sorted(keys, key=lambda key: key.id not in hints)
    found = next(_signers(envelope, payload_type, likely), None)
    if found is None:
        raise AttestationInvalid("signature_invalid", "no enrolled key made any signature on this envelope")
    return found


def _signers(envelope: AnyEnvelope, payload_type: str, keys: Iterable[PublicKey]) -> Iterator[PublicKey]:
    if envelope.payload_type != payload_type:
        raise AttestationInvalid(
            "malformed", f"payload type is {envelope.payload_type[:60]!r}, expected {payload_type!r}"
        )
    if not 0 < len(envelope.signatures) <= MAX_SIGNATURES:
        raise AttestationInvalid("malformed", f"{len(envelope.signatures)} signatures, expected 1 to {MAX_SIGNATURES}")
    signed = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    for key in keys:
        if any(key.has_signed(one.sig, signed) for one in envelope.signatures):
            yield key


def native(key: Ed25519PublicKey) -> PublicKey:
    """Take a key that is held as a value as an enrolled one."""
    return enrolled_key(public_text(key), "key")
