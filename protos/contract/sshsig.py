"""SSH signatures as ``ssh-keygen -Y sign`` makes them, checked with ``cryptography`` alone.

The magic and the namespace keep a signature for one purpose from passing for another: a signature made to
log in or to tag a commit is never an approval. Keys on security tokens (``sk-``) also sign whether somebody
touched the token, which is required here.

Source: OpenSSH PROTOCOL.sshsig, PROTOCOL.u2f, RFC 4251 (encoding), RFC 5656 (ECDSA), RFC 8709 (Ed25519).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

NAMESPACE = "approval@interlock"
MAGIC = b"SSHSIG"
VERSION = 1
USER_PRESENT = 0x01  # the flag of a token that was touched
MAX_BYTES = 8192
ED25519, SK_ED25519 = "ssh-ed25519", "sk-ssh-ed25519@openssh.com"
SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
KINDS = (ED25519, SK_ED25519, SK_ECDSA, *(f"ecdsa-sha2-{name}" for name in _CURVES))
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


class SshMalformed(ValueError):
    """Bytes are not the SSH structure they should be."""


class _Wire:
    """Takes RFC 4251 fields off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def take(self, size: int) -> bytes:
        if size > len(self._left):
            raise SshMalformed(f"{len(self._left)} bytes are left, expected {size}")
        found, self._left = self._left[:size], self._left[size:]
        return found

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError as error:
            raise SshMalformed("a name is not ASCII") from error

    def positive(self) -> int:
        """Take an mpint that is not negative, in its one shortest form."""
        data = self.string()
        value = int.from_bytes(data, "big")
        if not data or data[0] & 0x80 or (len(data) > 1 and data[0] == 0 and not data[1] & 0x80):
            raise SshMalformed("a number is not in its shortest positive form")
        return value

    def done(self) -> None:
        if self._left:
            raise SshMalformed(f"{len(self._left)} bytes too many")


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """A public key: its type, its point, and for a token's key the application it was made for."""

    text: str
    kind: str
    blob: bytes
    point: bytes
    application: bytes

    @property
    def material(self) -> bytes:
        """What is the same in every name of this key: its curve and point."""
        curve = "ed25519" if self.kind in (ED25519, SK_ED25519) else _curve_name(self.kind)
        return f"{curve}:".encode() + self.point


def parse_public_line(line: str) -> SshPublicKey:
    """Read ``type base64 [comment]``, as in an OpenSSH ``.pub`` file; raises SshMalformed."""
    parts = line.split()
    if len(parts) < 2:
        raise SshMalformed(f"{line[:40]!r} has one word, expected a type and base64")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except binascii.Error as error:
        raise SshMalformed("the second word is not base64") from error
    key = _parse_key(blob)
    if key.kind != parts[0]:
        raise SshMalformed(f"the line says {parts[0]!r}, the key is {key.kind!r}")
    return key


def unarmoured(text: str) -> bytes:
    """Read the file that ``ssh-keygen -Y sign`` writes; raises SshMalformed."""
    body = text.strip()
    if not body.startswith(_BEGIN) or not body.endswith(_END):
        raise SshMalformed(f"expected {_BEGIN!r} … {_END!r}")
    try:
        return base64.b64decode("".join(body[len(_BEGIN) : -len(_END)].split()), validate=True)
    except binascii.Error as error:
        raise SshMalformed("the signature is not base64") from error


def armoured(signature: bytes) -> str:
    """Write a signature as ``ssh-keygen -Y verify`` reads it."""
    encoded = base64.b64encode(signature).decode()
    lines = [encoded[at : at + 70] for at in range(0, len(encoded), 70)]
    return "\n".join([_BEGIN, *lines, _END]) + "\n"


def is_signed(signature: bytes, message: bytes, key_line: str, namespace: str = NAMESPACE) -> bool:
    """Say whether ``signature`` is the key's over ``message`` for this purpose; anything malformed is not."""
    try:
        return _is_signed(signature, message, parse_public_line(key_line), namespace)
    except (SshMalformed, ValueError):
        return False


def signed_bytes(namespace: str, algorithm: str, message: bytes) -> bytes:
    """Return what the key signs: the purpose and the hash of the message."""
    digest = _HASHES[algorithm](message).digest()
    fields = (namespace.encode(), b"", algorithm.encode(), digest)
    return MAGIC + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _is_signed(signature: bytes, message: bytes, key: SshPublicKey, namespace: str) -> bool:
    if len(signature) > MAX_BYTES:
        return False
    wire = _Wire(signature)
    if wire.take(len(MAGIC)) != MAGIC or wire.number() != VERSION:
        return False
    blob, purpose, _reserved, algorithm, inner = (
        wire.string(),
        wire.text(),
        wire.string(),
        wire.text(),
        wire.string(),
    )
    wire.done()
    if blob != key.blob or purpose != namespace or algorithm not in _HASHES:
        return False
    return _verifies(key, _Wire(inner), signed_bytes(namespace, algorithm, message))


def _verifies(key: SshPublicKey, wire: _Wire, signed: bytes) -> bool:
    if wire.text() != key.kind:
        return False
    made = wire.string()
    if key.application:
        flags, counter = wire.take(1), wire.take(4)
        if not flags[0] & USER_PRESENT:
            return False
        signed = hashlib.sha256(key.application).digest() + flags + counter + hashlib.sha256(signed).digest()
    wire.done()
    try:
        if key.kind in (ED25519, SK_ED25519):
            Ed25519PublicKey.from_public_bytes(key.point).verify(made, signed)
        else:
            curve, algorithm = _CURVES[_curve_name(key.kind)]
            numbers = _Wire(made)
            r, s = numbers.positive(), numbers.positive()
            numbers.done()
            public = ec.EllipticCurvePublicKey.from_encoded_point(curve, key.point)
            public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def _curve_name(kind: str) -> str:
    return "nistp256" if kind == SK_ECDSA else kind.removeprefix("ecdsa-sha2-")


def _parse_key(blob: bytes) -> SshPublicKey:
    if len(blob) > MAX_BYTES:
        raise SshMalformed(f"the key has {len(blob)} bytes, expected up to {MAX_BYTES}")
    wire = _Wire(blob)
    kind = wire.text()
    if kind not in KINDS:
        raise SshMalformed(f"the key is of type {kind[:40]!r}, expected one of {', '.join(KINDS)}")
    if kind in (ED25519, SK_ED25519):
        point = wire.string()
        if len(point) != 32:
            raise SshMalformed(f"the point has {len(point)} bytes, expected 32")
    else:
        name = wire.text()
        if name != _curve_name(kind):
            raise SshMalformed(f"the curve is {name[:40]!r}, expected {_curve_name(kind)!r}")
        point = wire.string()
        try:
            # OpenSSH writes points uncompressed; a second form would be a second name for one key.
            if point[:1] != b"\x04":
                raise ValueError("not uncompressed")
            ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[name][0], point)
        except ValueError as error:
            raise SshMalformed(f"the point is not on the curve: {error}") from error
    application = wire.string() if kind in (SK_ED25519, SK_ECDSA) else b""
    if kind in (SK_ED25519, SK_ECDSA) and not application:
        raise SshMalformed("a token's key names no application")
    wire.done()
    return SshPublicKey(f"{kind} {base64.b64encode(blob).decode()}", kind, blob, point, application)
