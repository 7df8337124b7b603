"""Public keys that may sign statements, as text and as values; private Ed25519 key files.

Two ways of signing, and a key is enrolled for exactly one of them: ``ed25519:`` and base64 signs bytes
as they are (RFC 8032); an OpenSSH public key line signs them as ``ssh-keygen -Y sign`` does. Whatever the
way, two texts with the same ``material`` are the same key.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos.contract import sshsig
from protos.contract.digest import digest_bytes
from protos.contract.sshsig import SshMalformed

NATIVE = "ed25519"


class KeyInvalid(ValueError):
    """A key file is missing, or is not a key that may sign."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One enrolled key.

    Attributes:
        text: The one way it is written: no comment, no options.
        kind: ``ed25519``, or OpenSSH's name of the key type.
        material: What makes two keys the same whatever they are called: curve and point.
    """

    text: str
    kind: str
    material: bytes

    @property
    def id(self) -> str:
        """What an envelope names the key by, as a hint; an OpenSSH key may go by another name there."""
        return digest_bytes(self._raw)

    @property
    def _raw(self) -> bytes:
        return self.material.removeprefix(b"ed25519:")

    def has_signed(self, signature: bytes, message: bytes) -> bool:
        """Say whether ``signature`` is this key's over ``message``, made in the way it is enrolled for."""
        if self.kind != NATIVE:
            return sshsig.is_signed(signature, message, self.text)
        try:
            Ed25519PublicKey.from_public_bytes(self._raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@lru_cache(1024)
def enrolled_key(text: str, where: str) -> PublicKey:
    """Read an enrolled key: ``ed25519:…`` or an OpenSSH public key line; raises KeyInvalid naming ``where``."""
    stripped = text.strip()
    if not stripped.startswith(sshsig.KINDS):
        key = parse_public(stripped, where)
        return PublicKey(public_text(key), NATIVE, b"ed25519:" + key.public_bytes_raw())
    try:
        found = sshsig.parse_public_line(stripped)
    except SshMalformed as error:
        raise KeyInvalid(f"{where} is {stripped[:60]!r}, expected an OpenSSH public key: {error}") from error
    return PublicKey(found.text, found.kind, found.material)


def public_text(key: Ed25519PublicKey) -> str:
    """Write a public key as ``ed25519:`` and base64 of its 32 bytes."""
    return f"{NATIVE}:" + base64.b64encode(key.public_bytes_raw()).decode()


def parse_public(text: str, where: str) -> Ed25519PublicKey:
    """Read what ``public_text`` wrote; raises KeyInvalid naming ``where``."""
    if "PRIVATE KEY-----" in text:
        raise KeyInvalid(f"{where} holds a private key, expected its public half (.pub)")  # and shows none of it
    kind, _, encoded = text.strip().partition(":")
    try:
        raw = base64.b64decode(encoded, validate=True)
        if kind != NATIVE or len(raw) != 32:
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
