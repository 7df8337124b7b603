"""Signing as a person: with an Ed25519 key file, or through ``ssh-keygen`` with any key it can use, tokens included."""

import shutil
import subprocess
import sys
from pathlib import Path

from controlplane.cli.output import Problem
from protos import traffic_pb2
from protos.contract.digest import digest_bytes
from protos.contract.envelope import add_signature, pre_authentication_encoding
from protos.contract.keys import KeyInvalid, read_private
from protos.contract.sshsig import KINDS, NAMESPACE, SshMalformed, unarmoured

OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"
TOUCH_S = 120.0  # how long a person may take to type a passphrase or to touch a token


def sign_with(path: Path, envelope: traffic_pb2.Envelope) -> None:
    """Add a signature by the key at ``path``.

    An OpenSSH private key, or the public half of a key that an agent or a token holds, is used through
    ``ssh-keygen``, which asks for a passphrase or a touch itself.

    Raises:
        KeyInvalid: There is no key that can sign.
        Problem: ``ssh-keygen`` did not sign.
    """
    if not is_ssh(path):
        add_signature(envelope, read_private(path))
        return
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    envelope.signatures.add(key_id=digest_bytes(str(path).encode()), sig=_ssh_sign(path, message))


def check_key(path: Path) -> None:
    """Refuse a key that cannot sign before anybody is asked anything; warn of one that others can read."""
    if not is_ssh(path):
        read_private(path)
    if path.suffix != ".pub" and path.stat().st_mode & 0o077:
        print(f"warning: {path} can be read by others, expected mode 0600", file=sys.stderr)


def is_ssh(path: Path) -> bool:
    """Say whether a key file is OpenSSH's; raises KeyInvalid when it cannot be read."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise KeyInvalid(f"{path}: cannot be read: {error.strerror}") from error
    return text.lstrip().startswith((OPENSSH, *KINDS))


def _ssh_sign(path: Path, message: bytes) -> bytes:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise Problem("ssh-keygen is not installed; it signs with OpenSSH keys", "UNIMPLEMENTED")
    command = [program, "-Y", "sign", "-n", NAMESPACE, "-f", str(path)]
    try:
        # Its questions go to the terminal: only what it signs and what it answers pass through here.
        made = subprocess.run(command, input=message, stdout=subprocess.PIPE, timeout=TOUCH_S, check=False)
        if made.returncode != 0:
            raise Problem(f"ssh-keygen ended with {made.returncode}; nothing was signed", "FAILED")
        return unarmoured(made.stdout.decode("ascii", "replace"))
    except subprocess.TimeoutExpired as error:
        raise Problem(f"ssh-keygen did not sign within {TOUCH_S:.0f} s", "DEADLINE_EXCEEDED") from error
    except SshMalformed as error:
        raise Problem(f"ssh-keygen wrote no signature: {error}", "FAILED") from error
