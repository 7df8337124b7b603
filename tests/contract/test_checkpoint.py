"""Checkpoints are C2SP signed notes, and nothing in one is believed before its signature."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from protos.contract.checkpoint import Checkpoint, CheckpointInvalid, key_id, sign_checkpoint, verify_checkpoint

ORIGIN = "interlock.example/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
ROOT = hashlib.sha256(b"root").digest()


def signed_note(body: str) -> str:
    raw = key_id(ORIGIN, PUBLIC) + KEY.sign(body.encode())
    return f"{body}\n— {ORIGIN} {base64.b64encode(raw).decode()}\n"


@given(st.integers(0, 2**53), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_says_what_was_signed(size: int, root: bytes) -> None:
    assert verify_checkpoint(sign_checkpoint(ORIGIN, size, root, KEY), ORIGIN, PUBLIC) == Checkpoint(size, root)


def test_the_form_is_the_signed_note() -> None:
    lines = sign_checkpoint(ORIGIN, 7, ROOT, KEY).split("\n")
    assert lines[:4] == [ORIGIN, "7", base64.b64encode(ROOT).decode(), ""]
    dash, name, encoded = lines[4].split(" ")
    raw = base64.b64decode(encoded)
    assert (dash, name, lines[5:]) == ("—", ORIGIN, [""])
    assert raw[:4] == hashlib.sha256(ORIGIN.encode() + b"\n\x01" + PUBLIC.public_bytes_raw()).digest()[:4]
    PUBLIC.verify(raw[4:], "\n".join(lines[:3]).encode() + b"\n")


def test_the_key_id_of_the_published_verifier_key() -> None:
    # golang.org/x/mod/sumdb/note: PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW
    raw = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert raw[:1] == b"\x01"
    assert key_id("PeterNeumann", Ed25519PublicKey.from_public_bytes(raw[1:])).hex() == "c74f20a3"


@given(st.data())
def test_no_changed_character_survives(data: st.DataObject) -> None:
    text = sign_checkpoint(ORIGIN, 7, ROOT, KEY)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters().filter(lambda c: c != text[at])) + text[at + 1 :]
    with pytest.raises(CheckpointInvalid):
        verify_checkpoint(changed, ORIGIN, PUBLIC)


def test_a_signature_has_one_spelling_only() -> None:
    text = sign_checkpoint(ORIGIN, 7, ROOT, KEY)
    last = text.rindex("=") - 1  # four of its six bits are padding's
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = alphabet[alphabet.index(text[last]) ^ 1]
    with pytest.raises(CheckpointInvalid, match="base64"):
        verify_checkpoint(text[:last] + twin + text[last + 1 :], ORIGIN, PUBLIC)


def test_another_key_is_not_believed() -> None:
    with pytest.raises(CheckpointInvalid) as caught:
        verify_checkpoint(sign_checkpoint(ORIGIN, 7, ROOT, KEY), ORIGIN, Ed25519PrivateKey.generate().public_key())
    assert caught.value.reason == "signature_invalid"


def test_a_signature_for_another_log_is_not_believed() -> None:
    other = f"other\n7\n{base64.b64encode(ROOT).decode()}\n"
    with pytest.raises(CheckpointInvalid) as caught:
        verify_checkpoint(signed_note(other), ORIGIN, PUBLIC)
    assert caught.value.reason == "origin_mismatch"


def test_a_witness_signature_beside_ours_is_left_alone() -> None:
    witness = base64.b64encode(b"\0" * 76).decode()
    text = sign_checkpoint(ORIGIN, 7, ROOT, KEY) + f"— witness.example {witness}\n"
    assert verify_checkpoint(text, ORIGIN, PUBLIC).size == 7


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(f"{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\n", id="unsigned"),
        pytest.param(signed_note(f"{ORIGIN}\n07\n{base64.b64encode(ROOT).decode()}\n"), id="leading-zero"),
        pytest.param(signed_note(f"{ORIGIN}\n-1\n{base64.b64encode(ROOT).decode()}\n"), id="negative"),
        pytest.param(signed_note(f"{ORIGIN}\n7\n{base64.b64encode(ROOT[:31]).decode()}\n"), id="short-root"),
        pytest.param(signed_note(f"{ORIGIN}\n7\n!!\n"), id="not-base64"),
        pytest.param(signed_note(f"{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\nmore\n"), id="extension-line"),
        pytest.param(sign_checkpoint(ORIGIN, 7, ROOT, KEY)[:-1], id="no-last-newline"),
        pytest.param(sign_checkpoint(ORIGIN, 7, ROOT, KEY) + "— x AA==\n" * 16, id="too-many-signatures"),
        pytest.param("x" * 70_000, id="too-long"),
        pytest.param("\ud800\n\n— x AA==\n", id="lone-surrogate"),
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CheckpointInvalid) as caught:
        verify_checkpoint(text, ORIGIN, PUBLIC)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\nbreak"])
def test_an_origin_that_no_note_can_carry_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        sign_checkpoint(origin, 1, ROOT, KEY)
