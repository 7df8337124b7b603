"""A ledger's head, signed so that anybody can hold the ledger's keeper to it.

Source: C2SP tlog-checkpoint and signed-note; Ed25519 is algorithm byte 0x01.
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


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the 4 bytes that hint at which key made a signature."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + key.public_bytes_raw()).digest()[:4]


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
    try:
        root = base64.b64decode(lines[2], validate=True)
    except binascii.Error as error:
        raise CheckpointInvalid("malformed", f"checkpoint root is {lines[2][:60]!r}, expected base64") from error
    if len(root) != 32 or base64.b64encode(root).decode() != lines[2]:
        raise CheckpointInvalid("malformed", f"checkpoint root is {lines[2][:60]!r}, expected base64 of 32 bytes")
    return Checkpoint(int(lines[1]), root)


def _verified_body(text: str, name: str, public_key: Ed25519PublicKey) -> str:
    """Return the signed text of a note, its last newline included, once its signature is checked."""
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
    signatures = tail[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise CheckpointInvalid("malformed", f"{len(signatures)} signatures, expected 1 to {MAX_SIGNATURES}")
    body += "\n"
    hint = key_id(name, public_key)
    is_signed = False
    for line in signatures:
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise CheckpointInvalid("malformed", f"signature line is {line[:80]!r}, expected '— name base64'")
        try:
            raw = base64.b64decode(match[2], validate=True)
        except binascii.Error as error:
            raise CheckpointInvalid("malformed", f"signature line is {line[:80]!r}, expected base64") from error
        if match[1] != name or raw[:4] != hint:
            continue
        try:
            public_key.verify(raw[4:], body.encode())
        except InvalidSignature as error:
            raise CheckpointInvalid("signature_invalid", f"the signature of {name!r} does not verify") from error
        is_signed = True
    if not is_signed:
        raise CheckpointInvalid("signature_invalid", f"no signature by the key of {name!r}")
    return body
