"""A bundle store at any fsspec URL: an object store, a share, memory. The same names and checks as a directory's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protos.contract.bundle import MANIFEST, BundleStore, Manifest
from protos.contract.digest import canonical_json, hex_of
from protos.contract.fields import FieldInvalid


def open_store(where: str) -> BundleStore:
    """Open a store by path or URL; raises FieldInvalid for a URL whose protocol or library is not there."""
    return UrlStore(where) if "://" in where else BundleStore(Path(where))


class UrlStore(BundleStore):
    """Bundles behind a URL. Object stores cannot rename, so a manifest is written last: without it, there is none."""

    def __init__(self, url: str) -> None:
        import fsspec

        super().__init__(Path(url))
        self.url = url.rstrip("/")
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise FieldInvalid(f"store is {url!r}, expected a directory or a URL that fsspec opens: {error}") from error

    def _at(self, digest: str, name: str = "") -> str:
        return "/".join(filter(None, (self._root.rstrip("/"), hex_of(digest), name)))

    def digests(self) -> list[str]:
        """List the bundles present, unverified."""
        if not self._files.exists(self._root):
            return []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, detail=False)]
        found = [name for name in names if len(name) == 64 and self._files.exists(f"{self._root}/{name}/{MANIFEST}")]
        return sorted("sha256:" + name for name in found)

    def names(self, digest: str) -> set[str]:
        """List what lies in a bundle's folder."""
        root = self._at(digest)
        return {str(path).partition(root + "/")[2] for path in self._files.find(root)}

    def read(self, digest: str, name: str) -> bytes:
        """Read one file, unverified; raises OSError."""
        data: bytes = self._files.cat_file(self._at(digest, name))
        return data

    def size(self, digest: str) -> int:
        """Return how many bytes a bundle takes."""
        return sum(int(self._files.size(self._at(digest, name))) for name in self.names(digest))

    def made(self, digest: str) -> float:
        """Return when a bundle was written here, Unix seconds."""
        return float(self._files.modified(self._at(digest, MANIFEST)).timestamp())

    def remove(self, digest: str) -> None:
        """Delete a bundle, its manifest first."""
        self._files.rm_file(self._at(digest, MANIFEST))
        self._files.rm(self._at(digest), recursive=True)

    def write(self, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
        """Write a bundle's files, its manifest last."""
        if self._files.exists(self._at(manifest.digest, MANIFEST)):
            return
        for name, data in [*contents.items(), (MANIFEST, canonical_json(manifest.to_json()))]:
            path = self._at(manifest.digest, name)
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)
