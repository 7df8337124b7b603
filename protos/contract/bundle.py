"""Bundles: a specialist's deployable artifact, named by the digest of its manifest.

A store is a directory; a bundle lives in ``<store>/<64 hex digits>/`` and holds
``manifest.json`` and exactly the files it lists. Only data formats are accepted:
safetensors, JSON, and OpenVINO IR (``.xml`` with ``.bin``). Nothing here unpickles.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from protos.contract.digest import (
    DigestMalformed,
    JsonMalformed,
    canonical_json,
    digest_bytes,
    digest_json,
    digests_in,
    hex_of,
    parse_digest,
    parse_json_object,
)
from protos.contract.engines import EngineInexact, check_adapter_is_read, check_exactness, label_logprobs_of
from protos.contract.fields import FieldInvalid, Reader, check_json
from protos.contract.task import TaskSpec

SCHEMA = "interlock.bundle/1"
MANIFEST = "manifest.json"
SUFFIXES = (".safetensors", ".json", ".xml", ".bin")


class BundleInvalid(Exception):
    """A bundle is missing, altered or not one; says which and what was expected."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"bundle {digest}: {problem}")
        self.digest = digest
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is made of.

    Attributes:
        task: The specialist's task, complete, so that a bundle needs nothing beside itself.
        engine: ``backend`` and that backend's own settings.
        files: Path inside the bundle to its digest.
        base: Name and digest of the base model the weights came from; empty for none.
        lineage: ``author``, and digests of parent, data, configuration; whatever else training recorded.
    """

    task: TaskSpec
    engine: Mapping[str, Any]
    files: Mapping[str, str]
    base: Mapping[str, Any]
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        """Name of the worker backend that can run this bundle."""
        return str(self.engine["backend"])

    @property
    def author(self) -> str:
        """Who asked for this bundle to be made; may not approve it."""
        return str(self.lineage.get("author", ""))

    @property
    def digest(self) -> str:
        """The bundle's name."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {
            "schema": SCHEMA,
            "task": self.task.to_json(),
            "engine": dict(self.engine),
            "files": dict(self.files),
            "base": dict(self.base),
            "lineage": dict(self.lineage),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read and check a manifest; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, "manifest")
        read.text("schema", choices=(SCHEMA,))
        engine = read.object("engine")
        exactness = label_logprobs_of(engine)
        files = read.object("files")
        for path, digest in files.items():
            _check_path(path)
            parse_digest(str(digest), f"manifest.files[{path!r}]")
        manifest = cls(
            task=TaskSpec.from_json(read.object("task"), "manifest.task"),
            engine=engine,
            files=files,
            base=_check_base(read.object("base")),
            lineage=read.object("lineage", {}),
        )
        read.done()
        check_json(manifest.to_json(), "manifest")
        try:
            check_exactness(manifest.task, exactness, manifest.backend)
        except EngineInexact as error:
            raise FieldInvalid(f"manifest.engine: {error}") from error
        return manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, in memory: the bytes that were hashed are the bytes to load."""

    digest: str
    manifest: Manifest
    contents: Mapping[str, bytes]


def _check_path(path: str) -> None:
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or any(p in ("..", ".") for p in parts) or path == MANIFEST:
        raise FieldInvalid(f"manifest.files names {path!r}, expected a relative path inside the bundle")
    if not path.isprintable():
        raise FieldInvalid(f"manifest.files names {path!r}, expected a path of printable characters")
    if not path.endswith(SUFFIXES):
        raise FieldInvalid(f"manifest.files names {path!r}, expected a file ending in {', '.join(SUFFIXES)}")


def _check_base(base: dict[str, Any]) -> dict[str, Any]:
    if base:
        read = Reader(base, "manifest.base")
        read.text("name")
        parse_digest(read.text("digest"), "manifest.base.digest")
        read.done()
    return base


@lru_cache(64)
def _read_manifest(digest: str, data: bytes) -> Manifest:
    """Read a manifest, checking that it hashes to its name; the same bytes, which many steps ask for, once."""
    try:
        value = parse_json_object(data)
        found = digest_json(value)
    except (JsonMalformed, ValueError) as error:
        raise BundleInvalid(digest, f"{MANIFEST}: {error}") from error
    if found != digest:
        raise BundleInvalid(digest, f"{MANIFEST} hashes to {found}, expected its own name")
    try:
        return Manifest.from_json(value)
    except (FieldInvalid, DigestMalformed) as error:
        raise BundleInvalid(digest, str(error)) from error


class BundleStore:
    """Content-addressed directory of bundles. Adding is atomic; nothing is changed in place.

    Attributes:
        is_filled: Whether bundles that are not here may be fetched from elsewhere.
    """

    is_filled = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Return where a bundle lives, present or not."""
        return self.root / hex_of(digest)

    def digests(self) -> list[str]:
        """List the bundles present, unverified."""
        return digests_in(self.root, MANIFEST)

    def manifest(self, digest: str) -> Manifest:
        """Read one manifest, checking that it hashes to its name.

        Raises:
            BundleInvalid: Missing, altered, or not a manifest.
        """
        try:
            data = self.read(digest, MANIFEST)
        except OSError as error:
            raise BundleInvalid(digest, f"{MANIFEST} cannot be read: {error.strerror}") from error
        return _read_manifest(digest, data)

    def load(self, digest: str) -> Bundle:
        """Read a whole bundle into memory and verify every byte of it.

        Raises:
            BundleInvalid: A file is missing, altered, or present without being listed.
        """
        manifest = self.manifest(digest)
        extra = sorted(self.names(digest) - set(manifest.files) - {MANIFEST})
        if extra:
            raise BundleInvalid(digest, f"{extra[0]} is not listed in the manifest")
        contents = {}
        for name, expected in manifest.files.items():
            try:
                data = self.read(digest, name)
            except OSError as error:
                raise BundleInvalid(digest, f"{name} is missing or not a plain file") from error
            if digest_bytes(data) != expected:
                raise BundleInvalid(digest, f"{name} hashes to {digest_bytes(data)}, expected {expected}")
            contents[name] = data
        return Bundle(digest, manifest, contents)

    def add(
        self,
        *,
        task: TaskSpec,
        engine: Mapping[str, Any],
        contents: Mapping[str, bytes],
        base: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> Manifest:
        """Write a bundle and return its manifest; adding the same content twice is harmless. Raises FieldInvalid."""
        check_adapter_is_read(engine, contents)
        manifest = Manifest.from_json(
            Manifest(
                task=task,
                engine=engine,
                files={name: digest_bytes(data) for name, data in contents.items()},
                base=base,
                lineage=lineage,
            ).to_json()
        )
        self.write(manifest, contents)
        return manifest

    def names(self, digest: str) -> set[str]:
        """List what lies in a bundle's folder, listed in its manifest or not."""
        root = self.path(digest)
        return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}

    def read(self, digest: str, name: str) -> bytes:
        """Read one file, unverified; raises OSError, also for what is not a plain file."""
        file = self.path(digest) / name
        if file.is_symlink():
            raise OSError(f"{name} is a link")
        return file.read_bytes()

    def fetch(self, digest: str) -> None:
        """Have a bundle here that is kept elsewhere too; a plain store has what it has.

        May take long: never on an event loop. Raises BundleInvalid, OSError.
        """

    def trim(self, keep: Collection[str]) -> list[str]:
        """Make room where bundles were fetched from elsewhere; returns what went. A plain store keeps what it has."""
        return []

    def size(self, digest: str) -> int:
        """Return how many bytes a bundle takes."""
        return sum((self.path(digest) / name).lstat().st_size for name in self.names(digest))

    def made(self, digest: str) -> float:
        """Return when a bundle was written here, Unix seconds."""
        return (self.path(digest) / MANIFEST).lstat().st_mtime

    def remove(self, digest: str) -> None:
        """Delete a bundle: out of sight in one step, then file by file."""
        gone = Path(tempfile.mkdtemp(prefix=".removing-", dir=self.root))
        os.replace(self.path(digest), gone / "bundle")
        shutil.rmtree(gone)

    def write(self, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
        """Write a bundle that was checked, whole or not at all, in place of one that was altered."""
        self.root.mkdir(parents=True, exist_ok=True)
        final = self.path(manifest.digest)
        if final.is_dir():
            if self._stands(manifest.digest):
                return
            self.remove(manifest.digest)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=self.root))
        try:
            for name, data in [*contents.items(), (MANIFEST, canonical_json(manifest.to_json()))]:
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(staging, final)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if not final.is_dir():  # lost a race with another writer of the same bytes: fine
                error.filename = error.filename or str(self.root)  # a full disk names none
                raise

    def _stands(self, digest: str) -> bool:
        """Say whether what is here is what its name says."""
        try:
            BundleStore.load(self, digest)  # what is here, not what could be fetched
        except BundleInvalid:
            return False
        return True
