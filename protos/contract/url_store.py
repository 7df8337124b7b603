"""Bundles and bases at any fsspec URL: an object store, a share, memory. The same names and checks as a directory's."""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from protos.contract.base import FOLDER, LISTING, BaseStore, copy_verified
from protos.contract.bundle import MANIFEST, BundleStore, Manifest
from protos.contract.digest import canonical_json, hex_of, is_hex
from protos.contract.fields import FieldInvalid


def open_store(where: str) -> BundleStore:
    """Open a store by path or URL; raises FieldInvalid for a URL whose protocol or library is not there."""
    return UrlStore(where) if "://" in where else BundleStore(Path(where))


def bases_of(store: BundleStore) -> BaseStore:
    """Return the bases that lie beside a store's bundles."""
    return UrlBases(f"{store.url}/{FOLDER}") if isinstance(store, UrlStore) else BaseStore(store.root / FOLDER)


class _Files:
    """Folders of files behind a URL, each named by 64 hex digits and marked as whole by a file written last."""

    def __init__(self, url: str, mark: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._mark = mark
        try:
            self.system: Any
            self.system, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise FieldInvalid(f"store is {url!r}, expected a directory or a URL that fsspec opens: {error}") from error
        self._root = str(root).rstrip("/")

    def at(self, digest: str, name: str = "") -> str:
        return "/".join(filter(None, (self._root, hex_of(digest), name)))

    def digests(self) -> list[str]:
        if not self.system.exists(self._root):
            return []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in self.system.ls(self._root, detail=False)]
        found = [n for n in names if is_hex(n) and self.system.exists(f"{self._root}/{n}/{self._mark}")]
        return sorted("sha256:" + name for name in found)

    def names(self, digest: str) -> set[str]:
        root = self.at(digest)
        return {str(path).partition(root + "/")[2] for path in self.system.find(root)}

    def read(self, digest: str, name: str) -> bytes:
        data: bytes = self.system.cat_file(self.at(digest, name))
        return data

    def size(self, digest: str) -> int:
        return sum(int(self.system.size(self.at(digest, name))) for name in self.names(digest))

    def made(self, digest: str) -> float:
        return float(self.system.modified(self.at(digest, self._mark)).timestamp())

    def remove(self, digest: str) -> None:
        self.system.rm_file(self.at(digest, self._mark))
        self.clear(digest)

    def clear(self, digest: str) -> None:
        if self.names(digest):
            self.system.rm(self.at(digest), recursive=True)

    def put_all(self, digest: str, files: Iterable[tuple[str, bytes | Path]]) -> None:
        """Put a folder's files, its mark last; where that fails, take away what came."""
        try:
            for name, data in files:
                self.put(digest, name, data)
        except Exception as error:
            with contextlib.suppress(OSError):
                if not self.is_whole(digest):  # another writer of the same bytes may have been done
                    self.clear(digest)
            if isinstance(error, OSError):
                error.filename = error.filename or self.url  # a full disk names none
            raise

    def is_whole(self, digest: str) -> bool:
        return bool(self.system.exists(self.at(digest, self._mark)))

    def unfinished(self) -> list[tuple[str, float, int]]:
        """List folders that were never marked as whole: digest, newest change in Unix seconds, bytes."""
        found = []
        if self.system.exists(self._root):
            for path in self.system.ls(self._root, detail=False):
                name = str(path).rstrip("/").rpartition("/")[2]
                digest = f"sha256:{name}"
                if is_hex(name) and not self.is_whole(digest) and (inside := self.names(digest)):
                    newest = max(float(self.system.modified(self.at(digest, one)).timestamp()) for one in inside)
                    found.append((digest, newest, self.size(digest)))
        return found

    def put(self, digest: str, name: str, data: bytes | Path) -> None:
        path = self.at(digest, name)
        self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(data, bytes):
            self.system.pipe_file(path, data)
        else:
            self.system.put_file(str(data), path)


class UrlStore(BundleStore):
    """Bundles behind a URL. Object stores cannot rename, so a manifest is written last: without it, there is none."""

    def __init__(self, url: str) -> None:
        super().__init__(Path(url))
        self.files = _Files(url, MANIFEST)
        self.url = self.files.url

    def digests(self) -> list[str]:
        """List the bundles present, unverified."""
        return self.files.digests()

    def names(self, digest: str) -> set[str]:
        """List what lies in a bundle's folder."""
        return self.files.names(digest)

    def read(self, digest: str, name: str) -> bytes:
        """Read one file, unverified; raises OSError."""
        return self.files.read(digest, name)

    def size(self, digest: str) -> int:
        """Return how many bytes a bundle takes."""
        return self.files.size(digest)

    def made(self, digest: str) -> float:
        """Return when a bundle was written here, Unix seconds."""
        return self.files.made(digest)

    def remove(self, digest: str) -> None:
        """Delete a bundle, its manifest first."""
        self.files.remove(digest)

    def write(self, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
        """Write a bundle's files, its manifest last, in place of one that was altered."""
        if self.files.is_whole(manifest.digest) and self._stands(manifest.digest):
            return
        files: list[tuple[str, bytes | Path]] = [*contents.items(), (MANIFEST, canonical_json(manifest.to_json()))]
        self.files.put_all(manifest.digest, files)


class UrlBases(BaseStore):
    """Base models behind a URL; a listing is written last."""

    def __init__(self, url: str) -> None:
        super().__init__(Path(url))
        self.files = _Files(url, LISTING)

    def digests(self) -> list[str]:
        """List the bases present, unverified."""
        return self.files.digests()

    def copy_out(self, digest: str, name: str, to: Path) -> None:
        """Copy one file to a path, unverified; raises OSError."""
        self.files.system.get_file(self.files.at(digest, name), str(to))

    def size(self, digest: str) -> int:
        """Return how many bytes a base takes."""
        return self.files.size(digest)

    def made(self, digest: str) -> float:
        """Return when a base was written here, Unix seconds."""
        return self.files.made(digest)

    def remove(self, digest: str) -> None:
        """Delete a base, its listing first."""
        self.files.remove(digest)

    def take(self, other: BaseStore, digest: str) -> None:
        """Copy a base from another store, verified, its listing last; raises BaseInvalid."""
        # Not read again, which may be gigabytes: whoever loads it hashes every byte.
        if self.files.is_whole(digest) and self.size(digest) == other.size(digest):
            self.files.put(digest, LISTING, self.files.read(digest, LISTING))  # as new: somebody is about to need it
            return
        with tempfile.TemporaryDirectory(prefix="interlock-base-") as folder:
            base = copy_verified(other, digest, Path(folder))
            self.files.put_all(digest, [(name, Path(folder) / name) for name in (*base.files, LISTING)])

    def _bytes(self, digest: str, name: str) -> bytes:
        return self.files.read(digest, name)
