"""Our envelopes are DSSE: another implementation reads them, and says the same."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signature, SSlibKey

from protos.contract.attestation import (
    KeyInvalid,
    generate_key,
    parse_public,
    pre_authentication_encoding,
    public_text,
    read_private,
    read_public,
    sign,
)


def test_the_published_pre_authentication_vector() -> None:
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_securesystemslib_verifies_what_we_sign() -> None:
    key = Ed25519PrivateKey.generate()
    ours = sign(b'{"a":1}', "application/vnd.in-toto+json", key)
    signature = ours.signatures[0]
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = SSlibKey(signature.key_id, "ed25519", "ed25519", {"public": key.public_key().public_bytes_raw().hex()})
    theirs = Envelope(
        ours.payload, ours.payload_type, {signature.key_id: Signature(signature.key_id, signature.sig.hex())}
    )
    assert pem and theirs.verify([public], 1)


def test_a_key_reads_back_and_is_private(tmp_path: Path) -> None:
    public = generate_key(tmp_path / "keys" / "ann")
    path = tmp_path / "keys" / "ann"
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_text(read_private(path).public_key()) == public_text(public)
    assert public_text(read_public(path.with_name("ann.pub"))) == public_text(public)
    with pytest.raises(FileExistsError):
        generate_key(path)


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "ed25519:!" + "A" * 43])
def test_a_wrong_public_key_is_refused_naming_where(text: str) -> None:
    with pytest.raises(KeyInvalid, match="here"):
        parse_public(text, "here")
