"""Canonical bytes and their SHA-256: the one way anything here is named by content."""

import hashlib
import json
import re
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import rfc8785
except ImportError:  # a bare checkout that only verifies
    rfc8785 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from protos import decide_pb2
    from protos.contract.given import Given

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class DigestMalformed(ValueError):
    """A string that should name content does not."""


class JsonMalformed(ValueError):
    """Bytes are not one JSON object with unique keys."""


def canonical_json(value: Any) -> bytes:
    """Serialise to the one byte string RFC 8785 allows for ``value``."""
    return plain_canonical_json(value) if rfc8785 is None else rfc8785.dumps(value)


def plain_canonical_json(value: Any) -> bytes:
    """Serialise what needs no library: text, whole numbers, truth values, lists, objects with ASCII keys.

    Raises:
        ValueError: There is something else in ``value``, such as a fraction, of which RFC 8785 says more.
    """
    _check_plain(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise ValueError(f"key is {name!r}, expected ASCII text where the package rfc8785 is not installed")
            _check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        raise ValueError(f"value is {value}, expected less than 2**53")
    elif value is not None and not isinstance(value, str | int):
        raise ValueError(f"value is {value!r}, expected no fraction where the package rfc8785 is not installed")


def digest_bytes(data: bytes) -> str:
    """Name bytes by content, as ``sha256:`` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Name a JSON value by the digest of its canonical bytes."""
    return digest_bytes(canonical_json(value))


def parse_digest(text: str, field: str) -> str:
    """Return ``text`` when it is a digest.

    Raises:
        DigestMalformed: It is not; the message names ``field``.
    """
    if not _DIGEST.fullmatch(text):
        raise DigestMalformed(f"{field} is {text[:80]!r}, expected 'sha256:' and 64 hex digits")
    return text


def hex_of(digest: str) -> str:
    """Return the 64 hex digits of a digest."""
    return parse_digest(digest, "digest")[len("sha256:") :]


def is_hex(name: str) -> bool:
    """Say whether a name is the 64 hex digits of a digest: folders of other names are not ours."""
    return _DIGEST.fullmatch("sha256:" + name) is not None


def digests_in(root: Path, listing: str) -> list[str]:
    """List what a content-addressed directory holds, unverified: folders named by content that hold their listing."""
    if not root.is_dir():
        return []
    return sorted("sha256:" + p.name for p in root.iterdir() if is_hex(p.name) and (p / listing).is_file())


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object, refusing repeated keys, which parsers disagree about.

    Raises:
        JsonMalformed: Not UTF-8, not JSON, not an object, or a key occurs twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            raise JsonMalformed("a key occurs twice in one JSON object")
        return seen

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except JsonMalformed:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonMalformed(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise JsonMalformed(f"expected a JSON object, found {type(value).__name__}")
    return value


def input_digest(given: "decide_pb2.Input | Given") -> str:
    """Name a caller's input by content, whatever order its fields arrived in."""
    if not given.fields:  # the same bytes, escaped in C: every call of a task with a cache pays for this
        return digest_bytes(f'{{"fields":{{}},"text":{encode_basestring(given.text)}}}'.encode())
    fields = {name: getattr(value, value.WhichOneof("kind") or "text") for name, value in given.fields.items()}
    # RFC 8785 numbers are IEEE doubles: integers beyond 2**53 are named by their decimal text.
    exact = {n: str(v) if isinstance(v, int) and abs(v) > 2**53 else v for n, v in fields.items()}
    return digest_json({"text": given.text, "fields": exact})
