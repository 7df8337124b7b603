"""Sealed capture: whoever writes cannot read it again.

A segment has a data key of its own, drawn when it is begun and encrypted to a public key by HPKE
(RFC 9180, X25519, HKDF-SHA256, AES-256-GCM); records are encrypted by AES-256-GCM under the data
key, with the record's place in the file as nonce. A gateway holds the public key only.
"""

import base64
import binascii
import errno
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protos.contract.attestation import KeyInvalid

INFO = b"interlock.sealed-segment/1"
WRAPPED_BYTES = 80  # 32 encapsulated, 32 of data key, 16 of tag
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealBroken(Exception):
    """Bytes were not sealed for this key, or were changed since."""


class RecordCipher:
    """Encrypts the records of one segment, each by its place in the file."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, place: int, body: bytes) -> bytes:
        """Encrypt a record that begins at ``place``; 16 bytes longer."""
        return self._cipher.encrypt(place.to_bytes(12, "big"), body, INFO)

    def open(self, place: int, body: bytes) -> bytes:
        """Decrypt it; raises SealBroken."""
        try:
            return self._cipher.decrypt(place.to_bytes(12, "big"), body, INFO)
        except InvalidTag as error:
            raise SealBroken(f"the record at {place} was changed, or sealed for another key") from error


Opener = Callable[[bytes], RecordCipher]  # from a wrapped data key


def begin(key: X25519PublicKey) -> tuple[bytes, RecordCipher]:
    """Draw a data key; return it wrapped, and what encrypts with it."""
    data_key = os.urandom(32)
    return _SUITE.encrypt(data_key, key, info=INFO), RecordCipher(data_key)


def opener(key: X25519PrivateKey) -> Opener:
    """Return what unwraps data keys; it raises SealBroken."""

    def unwrap(wrapped: bytes) -> RecordCipher:
        try:
            return RecordCipher(_SUITE.decrypt(wrapped, key, info=INFO))
        except (InvalidTag, ValueError) as error:
            raise SealBroken("the segment was sealed for another key") from error

    return unwrap


def generate_seal_key(path: Path) -> None:
    """Write a new private key (PEM, mode 0600) and its ``.pub`` beside it; refuses to overwrite."""
    key = X25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    path.with_name(path.name + ".pub").write_text(f"x25519:{public}\n")


def read_seal_key(path: Path) -> X25519PublicKey:
    """Read a ``.pub`` file; raises KeyInvalid."""
    try:
        kind, _, encoded = path.read_text().strip().partition(":")
        raw = base64.b64decode(encoded, validate=True)
        if kind != "x25519":
            raise ValueError(f"is of kind {kind[:20]!r}")
        return X25519PublicKey.from_public_bytes(raw)
    except (OSError, ValueError, binascii.Error) as error:
        raise KeyInvalid(f"{path}: expected 'x25519:' and base64 of 32 bytes: {error}") from error


class SealKeyFile:
    """A ``.pub`` file that may be replaced: read for every segment, the last good key stays where it is unreadable.

    One that is not there yet may still be published: until then there is nothing to seal for.

    Raises:
        KeyInvalid: It is wrong from the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = read_seal_key(path) if path.exists() else None

    def __call__(self) -> X25519PublicKey:
        """Return the key to seal the next segment for; raises OSError while there is none."""
        try:
            self._key = read_seal_key(self._path)
        except KeyInvalid as error:
            if self._key is None:
                raise FileNotFoundError(errno.ENOENT, "no key to seal segments for yet", str(self._path)) from error
        return self._key


def read_opener(path: Path) -> Opener:
    """Read a private key file; raises KeyInvalid."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyInvalid(f"{path}: not a readable X25519 private key in PEM form: {error}") from error
    if not isinstance(key, X25519PrivateKey):
        raise KeyInvalid(f"{path}: holds {type(key).__name__}, expected an X25519 private key")
    return opener(key)
