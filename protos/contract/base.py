"""Base models: what adapters are trained on, named by digest, stored once for every bundle that refers to it.

A store is a directory; a base lives in ``<store>/<64 hex digits>/`` and holds ``base.json`` and exactly the
files it lists: ``config.json``, ``tokenizer.json`` and safetensors, as Hugging Face lays them out.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from protos.contract.fields import FieldInvalid, Reader

SCHEMA = "interlock.base/1"
LISTING = "base.json"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
SUFFIXES = (".safetensors", ".json")
FOLDER = "bases"  # of a bundle store, where a worker looks unless told otherwise


class BaseInvalid(Exception):
    """A base model is missing, altered or not one; says which and what was expected."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"base {digest}: {problem}")
        self.digest = digest
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Base:
    """A base model's listing: its name, and the digest of each of its files."""

    name: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The base's name by content, which manifests give as ``base.digest``."""
        return digest_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        return {"schema": SCHEMA, "name": self.name, "files": dict(self.files)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read and check a listing; raises FieldInvalid or DigestMalformed."""
        read = Reader(value, "base")
        read.text("schema", choices=(SCHEMA,))
        base = cls(name=read.text("name"), files=read.object("files"))
        read.done()
        for path, digest in base.files.items():
            parse_digest(str(digest), f"base.files[{path!r}]")
            if Path(path).name != path or not path.endswith(SUFFIXES) or path == LISTING:
                raise FieldInvalid(f"base.files names {path!r}, expected a plain name ending in {', '.join(SUFFIXES)}")
        for needed in (CONFIG, TOKENIZER):
            if needed not in base.files:
                raise FieldInvalid(f"base.files lacks {needed}")
        if not base.weights:
            raise FieldInvalid("base.files lists no safetensors, expected the model's weights")
        return base

    @property
    def weights(self) -> list[str]:
        """Names of the safetensors, in order."""
        return sorted(name for name in self.files if name.endswith(".safetensors"))


class BaseStore:
    """Content-addressed directory of base models. Adding is atomic; nothing is changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Return where a base lives, present or not."""
        return self.root / hex_of(digest)

    def digests(self) -> list[str]:
        """List the bases present, unverified."""
        return digests_in(self.root, LISTING)

    def listing(self, digest: str) -> Base:
        """Read one listing, checking that it hashes to its name; raises BaseInvalid."""
        try:
            value = parse_json_object(self._bytes(digest, LISTING))
            base = Base.from_json(value)
        except OSError as error:
            raise BaseInvalid(digest, f"{LISTING} cannot be read: {error.strerror}") from error
        except (JsonMalformed, FieldInvalid, DigestMalformed) as error:
            raise BaseInvalid(digest[:80], f"{LISTING}: {error}") from error
        if base.digest != digest:
            raise BaseInvalid(digest, f"{LISTING} hashes to {base.digest}, expected its own name")
        return base

    def read(self, digest: str, base: Base, name: str) -> bytes:
        """Read one file and verify it: the bytes returned are the bytes that were hashed; raises BaseInvalid."""
        try:
            data = self._bytes(digest, name)
        except OSError as error:
            raise BaseInvalid(digest, f"{name} cannot be read: {error.strerror}") from error
        if digest_bytes(data) != base.files[name]:
            raise BaseInvalid(digest, f"{name} hashes to {digest_bytes(data)}, expected {base.files[name]}")
        return data

    def _bytes(self, digest: str, name: str) -> bytes:
        return (self.path(digest) / name).read_bytes()

    def copy_out(self, digest: str, name: str, to: Path) -> None:
        """Copy one file, unverified and without holding it in memory; raises OSError."""
        shutil.copyfile(self.path(digest) / name, to)

    def stands(self, digest: str) -> bool:
        """Say whether a base is here, and every byte of it what its name says."""
        try:
            listing = BaseStore.listing(self, digest)  # what is here, not what could be fetched
            for name in listing.files:
                self.read(digest, listing, name)
        except BaseInvalid:
            return False
        return True

    def trim(self, keep: Collection[str]) -> list[str]:
        """Make room where bases were fetched from elsewhere; returns what went. A plain store keeps what it has."""
        return []

    def size(self, digest: str) -> int:
        """Return how many bytes a base takes."""
        return sum(path.lstat().st_size for path in self.path(digest).iterdir())

    def made(self, digest: str) -> float:
        """Return when a base was written here, Unix seconds."""
        return (self.path(digest) / LISTING).lstat().st_mtime

    def remove(self, digest: str) -> None:
        """Delete a base: out of sight in one step, then file by file."""
        gone = Path(tempfile.mkdtemp(prefix=".removing-", dir=self.root))
        os.replace(self.path(digest), gone / "base")
        shutil.rmtree(gone)

    def take(self, other: "BaseStore", digest: str) -> None:
        """Copy a base from another store, every byte verified, in place of one that was altered here.

        Raises:
            BaseInvalid: Missing there, or altered.
        """
        if self.path(digest).is_dir():
            if self.stands(digest):
                return
            self.remove(digest)
        self.root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=self.root))
        try:
            copy_verified(other, digest, staging)
            try:
                os.replace(staging, self.path(digest))
            except OSError:
                if not (self.path(digest) / LISTING).is_file():  # lost a race with another writer of the same: fine
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def add(self, name: str, directory: Path) -> str:
        """Copy a model's directory in and return its digest; adding the same content twice is harmless.

        Raises:
            BaseInvalid: The directory lacks a file that a base must have.
        """
        names = sorted(p.name for p in directory.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
        self.root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=self.root))
        try:
            files = {}
            for file in names:
                shutil.copyfile(directory / file, staging / file)
                with (staging / file).open("rb+") as copied:
                    os.fsync(copied.fileno())
                files[file] = digest_bytes((staging / file).read_bytes())
            try:
                base = Base.from_json(Base(name, files).to_json())
            except FieldInvalid as error:
                raise BaseInvalid(str(directory), str(error)) from error
            (staging / LISTING).write_bytes(canonical_json(base.to_json()))
            final = self.path(base.digest)
            if final.is_dir() and not self.stands(base.digest):
                self.remove(base.digest)
            if final.is_dir():
                os.utime(final / LISTING)  # as new: somebody is about to need it
            else:
                os.replace(staging, final)
            return base.digest
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def copy_verified(store: BaseStore, digest: str, folder: Path) -> Base:
    """Copy a base's files and listing into a folder, hashing what arrived; raises BaseInvalid."""
    base = store.listing(digest)
    for name, expected in base.files.items():
        try:
            store.copy_out(digest, name, folder / name)
            with (folder / name).open("rb+") as file:
                found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
        except OSError as error:
            raise BaseInvalid(digest, f"{name} cannot be read: {error}") from error
        if found != expected:
            raise BaseInvalid(digest, f"{name} hashes to {found}, expected {expected}")
    (folder / LISTING).write_bytes(canonical_json(base.to_json()))
    return base
