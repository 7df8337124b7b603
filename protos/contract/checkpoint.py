"""A ledger's head, signed so that anybody can hold the ledger's keeper to it.

Source: C2SP tlog-checkpoint and signed-note (Ed25519 is algorithm byte 0x01), tlog-cosignature (0x04).
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_SIGNATURES = 16
MAX_LENGTH = 65_536  # characters: a note is read from disk or a peer before anything about it is trusted
ED25519 = b"\x01"
COSIGNATURE = b"\x04"
_ORIGIN = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII, no space and no plus sign
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)")


class CheckpointInvalid(Exception):
    """A checkpoint cannot be relied on. ``reason`` is ``malformed``, ``signature_invalid`` or ``origin_mismatch``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the ledger's keeper committed to: the number of entries and their 32-byte root."""

    size: int
    root: bytes


def key_id(name: str, key: Ed25519PublicKey, algorithm: bytes = ED25519) -> bytes:
    """Return the 4 bytes that hint at which key made a signature."""
    return hashlib.sha256(name.encode() + b"\n" + algorithm + key.public_bytes_raw()).digest()[:4]


def sign_checkpoint(origin: str, size: int, root: bytes, private_key: Ed25519PrivateKey) -> str:
    """Write a signed checkpoint; the key goes by the name of the origin.

    Raises:
        ValueError: The origin is not printable ASCII without spaces or '+', or size or root cannot be.
    """
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"origin is {origin[:60]!r}, expected printable ASCII without spaces or '+'")
    if size < 0 or len(root) != 32:
        raise ValueError(f"size is {size} and root has {len(root)} bytes, expected 0 or more and 32")
    body = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    signature = key_id(origin, private_key.public_key()) + private_key.sign(body.encode())
    return f"{body}\n— {origin} {base64.b64encode(signature).decode()}\n"


def verify_checkpoint(text: str, origin: str, public_key: Ed25519PublicKey) -> Checkpoint:
    """Read a checkpoint that ``public_key`` signed under the name ``origin``; other signatures are left alone.

    Raises:
        CheckpointInvalid: The note is malformed, not signed by this key, or speaks of another log.
    """
    body = _verified_body(text, origin, public_key)
    lines = body.split("\n")
    if len(lines) != 4:  # An extension line would say something that nobody here understands.
        raise CheckpointInvalid("malformed", f"checkpoint body has {len(lines) - 1} lines, expected 3")
    if lines[0] != origin:
        raise CheckpointInvalid("origin_mismatch", f"checkpoint is of {lines[0][:60]!r}, expected {origin!r}")
    if not _SIZE.fullmatch(lines[1]):
        raise CheckpointInvalid("malformed", f"checkpoint size is {lines[1][:30]!r}, expected a whole number")
    root = _canonical(lines[2])
    if root is None or len(root) != 32:
        raise CheckpointInvalid("malformed", f"checkpoint root is {lines[2][:60]!r}, expected base64 of 32 bytes")
    return Checkpoint(int(lines[1]), root)


def cosign(text: str, witness: str, private_key: Ed25519PrivateKey, at: int) -> str:
    """Return the one signature line by which a witness says when it saw a checkpoint, at Unix seconds ``at``.

    Whether the checkpoint continues the last one it saw is for the witness to know before it signs.

    Raises:
        ValueError: The witness's name is not printable ASCII without spaces or '+', or the time cannot be.
    """
    if not _ORIGIN.fullmatch(witness):
        raise ValueError(f"witness is {witness[:60]!r}, expected printable ASCII without spaces or '+'")
    if not 0 <= at < 2**63:
        raise ValueError(f"at is {at}, expected Unix seconds")
    signature = private_key.sign(_cosigned(_body_of(text), at))
    hint = key_id(witness, private_key.public_key(), COSIGNATURE)
    return f"— {witness} {base64.b64encode(hint + at.to_bytes(8, 'big') + signature).decode()}\n"


def verify_cosignature(text: str, witness: str, public_key: Ed25519PublicKey) -> int:
    """Return when a witness cosigned a checkpoint, in Unix seconds.

    Raises:
        CheckpointInvalid: The note is malformed, or this witness did not cosign it.
    """
    body, hint = _body_of(text), key_id(witness, public_key, COSIGNATURE)
    for name, raw in _signatures(text):
        if name != witness or raw[:4] != hint or len(raw) != 4 + 8 + 64:
            continue
        at = int.from_bytes(raw[4:12], "big")
        try:
            public_key.verify(raw[12:], _cosigned(body, at))
        except InvalidSignature as error:
            raise CheckpointInvalid("signature_invalid", f"the cosignature of {witness!r} does not verify") from error
        return at
    raise CheckpointInvalid("signature_invalid", f"no cosignature by the key of {witness!r}")


def _cosigned(body: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{body}".encode()


def _body_of(text: str) -> str:
    """Return the signed text of a note, its last newline included."""
    if len(text) > MAX_LENGTH:
        raise CheckpointInvalid("malformed", f"checkpoint has {len(text)} characters, expected up to {MAX_LENGTH}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise CheckpointInvalid("malformed", "checkpoint is not valid Unicode") from error
    if any(byte < 0x20 and byte != 0x0A for byte in encoded):
        raise CheckpointInvalid("malformed", "checkpoint holds control characters")
    # The last blank line separates, because the signed text may hold blank lines of its own.
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise CheckpointInvalid("malformed", "checkpoint lacks a blank line followed by signature lines")
    return body + "\n"


def _signatures(text: str) -> list[tuple[str, bytes]]:
    """Return a note's signatures as (name, key hint and signature)."""
    lines = text.rpartition("\n\n")[2][:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointInvalid("malformed", f"{len(lines)} signatures, expected 1 to {MAX_SIGNATURES}")
    found = []
    for line in lines:
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise CheckpointInvalid("malformed", f"signature line is {line[:80]!r}, expected '— name base64'")
        raw = _canonical(match[2])
        if raw is None:
            raise CheckpointInvalid("malformed", f"signature line is {line[:80]!r}, expected base64")
        found.append((match[1], raw))
    return found


def _canonical(text: str) -> bytes | None:
    """Read base64 that has no other spelling: the unused bits before the padding are zero (RFC 4648, 3.5)."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _verified_body(text: str, name: str, public_key: Ed25519PublicKey) -> str:
    """Return the signed text of a note, its last newline included, once its signature is checked."""
    body = _body_of(text)
    hint = key_id(name, public_key)
    is_signed = False
    for signer, raw in _signatures(text):
        if signer != name or raw[:4] != hint:
            continue
        try:
            public_key.verify(raw[4:], body.encode())
        except InvalidSignature as error:
            raise CheckpointInvalid("signature_invalid", f"the signature of {name!r} does not verify") from error
        is_signed = True
    if not is_signed:
        raise CheckpointInvalid("signature_invalid", f"no signature by the key of {name!r}")
    return body
