"""What ssh-keygen signs we accept, what it would not accept we do not; tokens have to be touched."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protos.contract.attestation import KeyInvalid, Operators, enrolled_key, public_text
from protos.contract.sshsig import (
    MAGIC,
    NAMESPACE,
    SK_ED25519,
    SshMalformed,
    armoured,
    is_signed,
    parse_public_line,
    signed_bytes,
    unarmoured,
)

SSH_KEYGEN = shutil.which("ssh-keygen")
needs_ssh = pytest.mark.skipif(SSH_KEYGEN is None, reason="ssh-keygen is not installed")
MESSAGE = b"DSSEv1 4 kind 7 payload"


def ssh_key(folder: Path, kind: str, bits: str = "") -> Path:
    path = folder / "key"
    sizes = ["-b", bits] if bits else []
    subprocess.run([str(SSH_KEYGEN), "-q", "-t", kind, *sizes, "-N", "", "-C", "ann", "-f", str(path)], check=True)
    return path


def ssh_sign(key: Path, message: bytes, namespace: str = NAMESPACE) -> bytes:
    command = [str(SSH_KEYGEN), "-Y", "sign", "-n", namespace, "-f", str(key)]
    made = subprocess.run(command, input=message, capture_output=True, check=True)
    return unarmoured(made.stdout.decode())


def ssh_verifies(folder: Path, line: str, signature: bytes, message: bytes) -> bool:
    (folder / "allowed").write_text(f"ann@corp {line}\n")
    (folder / "sig").write_text(armoured(signature))
    command = [str(SSH_KEYGEN), "-Y", "verify", "-f", str(folder / "allowed"), "-I", "ann@corp", "-n", NAMESPACE]
    found = subprocess.run([*command, "-s", str(folder / "sig")], input=message, capture_output=True)
    return found.returncode == 0


@needs_ssh
@pytest.mark.parametrize(("kind", "bits"), [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")])
def test_what_ssh_keygen_signs_both_accept_and_what_is_changed_neither(tmp_path: Path, kind: str, bits: str) -> None:
    key = ssh_key(tmp_path, kind, bits)
    line = key.with_suffix(".pub").read_text()
    signature = ssh_sign(key, MESSAGE)
    assert is_signed(signature, MESSAGE, line) and ssh_verifies(tmp_path, line, signature, MESSAGE)
    assert not is_signed(signature, MESSAGE + b"!", line)
    assert not ssh_verifies(tmp_path, line, signature, MESSAGE + b"!")
    for at in range(0, len(signature), 11):
        changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        assert not is_signed(changed, MESSAGE, line), at
    assert not is_signed(signature + b"\0", MESSAGE, line)
    assert enrolled_key(line, "key").has_signed(signature, MESSAGE)


@needs_ssh
def test_a_signature_for_another_purpose_is_no_approval(tmp_path: Path) -> None:
    key = ssh_key(tmp_path, "ed25519")
    assert not is_signed(ssh_sign(key, MESSAGE, "git"), MESSAGE, key.with_suffix(".pub").read_text())


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Token:
    """A security token: it signs the application, whether it was touched, and a counter."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.blob = string(SK_ED25519.encode()) + string(self._key.public_key().public_bytes_raw()) + string(b"ssh:")
        self.line = f"{SK_ED25519} {base64.b64encode(self.blob).decode()}"

    def sign(self, message: bytes, flags: int) -> bytes:
        signed = signed_bytes(NAMESPACE, "sha512", message)
        tail = bytes([flags]) + (7).to_bytes(4, "big")
        made = self._key.sign(hashlib.sha256(b"ssh:").digest() + tail + hashlib.sha256(signed).digest())
        inner = string(SK_ED25519.encode()) + string(made) + tail
        fields = (self.blob, NAMESPACE.encode(), b"", b"sha512", inner)
        return MAGIC + (1).to_bytes(4, "big") + b"".join(map(string, fields))


def test_a_token_has_to_be_touched(tmp_path: Path) -> None:
    token = Token()
    touched, untouched = token.sign(MESSAGE, 0x01), token.sign(MESSAGE, 0x00)
    assert is_signed(touched, MESSAGE, token.line)
    assert not is_signed(untouched, MESSAGE, token.line)
    if SSH_KEYGEN is not None:
        assert ssh_verifies(tmp_path, token.line, touched, MESSAGE)


def test_a_raw_signature_by_an_ssh_key_does_not_count() -> None:
    private = Ed25519PrivateKey.generate()
    blob = string(b"ssh-ed25519") + string(private.public_key().public_bytes_raw())
    line = f"ssh-ed25519 {base64.b64encode(blob).decode()}"
    assert not enrolled_key(line, "key").has_signed(private.sign(MESSAGE), MESSAGE)


def test_one_key_written_in_two_ways_is_refused_when_enrolled() -> None:
    private = Ed25519PrivateKey.generate()
    blob = string(b"ssh-ed25519") + string(private.public_key().public_bytes_raw())
    people = [
        {"person": "ann", "roles": ["approver"], "keys": [public_text(private.public_key())]},
        {"person": "bob", "roles": ["approver"], "keys": [f"ssh-ed25519 {base64.b64encode(blob).decode()} bob"]},
    ]
    with pytest.raises(ValueError, match="is enrolled for 'ann' and 'bob'"):
        Operators.from_json({"version": 1, "required_approvals": 2, "people": people})


OFF_THE_CURVE = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x04" + b"\1" * 64)


@pytest.mark.parametrize(
    "line",
    [
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC",
        "ssh-ed25519",
        "ssh-ed25519 !!!",
        "ssh-ed25519 " + base64.b64encode(string(b"ssh-ed25519") + string(b"short")).decode(),
        "ecdsa-sha2-nistp256 " + base64.b64encode(OFF_THE_CURVE).decode(),
    ],
)
def test_what_is_no_key_is_refused_in_words(line: str) -> None:
    with pytest.raises((SshMalformed, KeyInvalid), match="expected|not|word"):
        enrolled_key(line, "key")
    with pytest.raises(SshMalformed):
        parse_public_line(line)


@given(st.binary(max_size=300))
def test_no_bytes_pass_for_a_signature_and_none_break_the_reader(data: bytes) -> None:
    token = Token()
    assert not is_signed(data, MESSAGE, token.line)
    assert not is_signed(MAGIC + data, MESSAGE, token.line)
