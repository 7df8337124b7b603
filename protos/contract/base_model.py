"""Base models by reference: a bundle names one and pins every file; the files lie once, beside the bundles.

``<bundles>/bases/<64 hex digits>/`` holds the files, and the name is the digest of their list. Adapters of
many bundles share it.
"""

import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from protos.contract.digest import digest_json, hex_of, parse_digest
from protos.contract.fields import FieldInvalid, Reader

SUFFIXES = (".safetensors", ".json", ".txt", ".model")  # weights, configuration, vocabularies


class BaseInvalid(Exception):
    """A base model is missing, altered or not one; says which file and what was expected."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"base model {digest}: {problem}")
        self.digest = digest
        self.problem = problem


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The base model a bundle was made from.

    Attributes:
        name: For people, such as "Qwen/Qwen3-0.6B". Empty: the bundle has no base.
        digest: With ``files``, the digest of that list; without, what the trainer recorded.
        files: Path to digest of every file the engine needs beside the bundle. Empty: the bundle is complete.
    """

    name: str = ""
    digest: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read a reference; ``{}`` is none. Raises FieldInvalid or DigestMalformed."""
        if value == {}:
            return cls()
        read = Reader(value, where)
        ref = cls(read.text("name"), read.text("digest"), read.object("files", {}))
        read.done()
        parse_digest(ref.digest, f"{where}.digest")
        for path, digest in ref.files.items():
            check_data_path(path, SUFFIXES, f"{where}.files")
            parse_digest(str(digest), f"{where}.files[{path!r}]")
        if ref.files and digest_json(dict(ref.files)) != ref.digest:
            raise FieldInvalid(f"{where}.digest is {ref.digest}, expected {digest_json(dict(ref.files))} of its files")
        return ref

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that ``from_json`` reads."""
        if not self.name:
            return {}
        return {"name": self.name, "digest": self.digest} | ({"files": dict(self.files)} if self.files else {})


def check_data_path(path: str, suffixes: tuple[str, ...], where: str) -> None:
    """Refuse a path that leaves its folder or names no data format; raises FieldInvalid."""
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or any(p in ("..", ".") for p in parts):
        raise FieldInvalid(f"{where} names {path!r}, expected a relative path inside its folder")
    if not path.endswith(suffixes):
        raise FieldInvalid(f"{where} names {path!r}, expected a file ending in {', '.join(suffixes)}")


class BaseStore:
    """A directory of base models. Adding is atomic; nothing is changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Return where a base lives, present or not."""
        return self.root / hex_of(digest)

    def digests(self) -> list[str]:
        """List the bases present, unverified."""
        if not self.root.is_dir():
            return []
        return sorted("sha256:" + p.name for p in self.root.iterdir() if len(p.name) == 64 and p.is_dir())

    def add(self, name: str, directory: Path) -> BaseRef:
        """Copy a Hugging Face directory's data files and return the reference to them.

        Files of other formats are left out; adding the same files twice is harmless.

        Raises:
            FieldInvalid: There is no ``config.json`` or no weights.
        """
        paths = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
        wanted = [p for p in paths if p.endswith(SUFFIXES) and not any(part.startswith(".") for part in Path(p).parts)]
        if "config.json" not in wanted or not any(p.endswith(".safetensors") for p in wanted):
            raise FieldInvalid(f"base directory {directory} has {wanted}, expected config.json and safetensors weights")
        files = {path: _digest_file(directory / path) for path in wanted}
        ref = BaseRef(name, digest_json(files), files)
        final = self.path(ref.digest)
        if final.is_dir():
            return ref
        self.root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=self.root))
        try:
            for path in wanted:
                target = staging / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / path, target)
            staging.chmod(0o755)
            os.replace(staging, final)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            if not final.is_dir():  # lost a race with another writer of the same bytes: fine
                raise
        return ref

    def load(self, ref: BaseRef) -> dict[str, memoryview]:
        """Map every file of a base and verify it; the bytes returned are the bytes that were hashed.

        Raises:
            BaseInvalid: A file is missing, a link, or altered.
        """
        contents = {}
        for path, expected in ref.files.items():
            file = self.path(ref.digest) / path
            if file.is_symlink() or not file.is_file():
                raise BaseInvalid(ref.digest, f"{path} is missing or not a plain file")
            with file.open("rb") as opened:
                empty = os.fstat(opened.fileno()).st_size == 0
                data = memoryview(b"" if empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            found = "sha256:" + hashlib.sha256(data).hexdigest()
            if found != expected:
                raise BaseInvalid(ref.digest, f"{path} hashes to {found}, expected {expected}")
            contents[path] = data
        return contents


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
