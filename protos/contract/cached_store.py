"""Directories of bundles and bases that are filled from a store elsewhere, and kept within a size.

What is not here is fetched, every byte of it verified against its digest, and kept. A mark beside each fetched folder
says when it was last read; what lies here without a mark was put here by others and is never removed.
"""

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from protos.contract.base import LISTING, Base, BaseInvalid, BaseStore
from protos.contract.bundle import Bundle, BundleInvalid, BundleStore
from protos.contract.digest import hex_of
from protos.contract.url_store import UrlStore, bases_of

MARK = ".fetched-"
RECENT_S = 600.0  # what was read since then stays: another process of this machine may be about to need it
MAX_BYTES = 50_000_000_000  # of what was fetched into one directory, unless settings say otherwise


def cached(root: Path, url: str, max_bytes: int = 0) -> BundleStore:
    """Return a directory of bundles, filled from a URL where one is given; raises FieldInvalid."""
    return CachedStore(root, UrlStore(url), max_bytes) if url else BundleStore(root)


def cached_bases(root: Path, url: str, max_bytes: int = 0) -> BaseStore:
    """Return a directory of bases, filled from those beside a URL's bundles where one is given; raises FieldInvalid."""
    return CachedBases(root, bases_of(UrlStore(url)), max_bytes) if url else BaseStore(root)


class _Fetched:
    """What of a directory came from elsewhere, and when each folder was last read."""

    def __init__(self, store: BundleStore | BaseStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def _mark(self, digest: str) -> Path:
        return self._store.root / f"{MARK}{hex_of(digest)}"

    def add(self, digest: str) -> None:
        """Note that a folder is about to be fetched: one that a kill leaves behind is ours to remove too."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        self._mark(digest).touch()

    def read(self, digest: str) -> None:
        """Note that a folder was read, if it is one that was fetched."""
        with contextlib.suppress(OSError):
            os.utime(self._mark(digest))

    def trim(self, keep: Collection[str]) -> list[str]:
        """Remove what was read longest ago until the rest fits, never what is to be kept; 0 bytes: no limit."""
        if not self._max_bytes:
            return []
        found = []
        for mark in self._store.root.glob(f"{MARK}*"):
            digest = "sha256:" + mark.name.removeprefix(MARK)
            with contextlib.suppress(OSError):
                if self._store.path(digest).is_dir():
                    found.append((mark.stat().st_mtime, digest, self._store.size(digest)))
        total, gone = sum(size for _, _, size in found), []
        recent = time.time() - RECENT_S
        for read, digest, size in sorted(found):
            if total <= self._max_bytes or read > recent:
                break
            if digest in keep:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process of this machine was first
                self._store.remove(digest)
                self._mark(digest).unlink()
            total -= size
            gone.append(digest)
        return gone


class CachedStore(BundleStore):
    """A directory that is filled from another store. Only ``fetch`` and ``load`` go there: the rest never waits."""

    is_filled = True

    def __init__(self, root: Path, origin: BundleStore, max_bytes: int = 0) -> None:
        super().__init__(root)
        self._origin = origin
        self._fetched = _Fetched(self, max_bytes)

    def trim(self, keep: Collection[str]) -> list[str]:
        """Remove what was fetched and read longest ago, until the rest fits; returns what went."""
        return self._fetched.trim(keep)

    def fetch(self, digest: str) -> None:
        """Have a bundle here, whole and verified, in place of one that was altered here; raises BundleInvalid."""
        self.load(digest)

    def load(self, digest: str) -> Bundle:
        """Read a bundle, from the origin where it is not here as it should be; raises BundleInvalid."""
        try:
            bundle = super().load(digest)
        except BundleInvalid:
            pass
        else:
            self._fetched.read(digest)
            return bundle
        try:
            bundle = self._origin.load(digest)
        except (OSError, ValueError) as error:
            raise BundleInvalid(digest, f"{getattr(self._origin, 'url', self._origin.root)}: {error}") from error
        if self.path(digest).is_dir():  # altered here: what replaces it was verified
            self.remove(digest)
        self._fetched.add(digest)
        self.write(bundle.manifest, bundle.contents)
        return bundle


class CachedBases(BaseStore):
    """A directory of bases that is filled from another store, one file at a time."""

    def __init__(self, root: Path, origin: BaseStore, max_bytes: int = 0) -> None:
        super().__init__(root)
        self._origin = origin
        self._fetched = _Fetched(self, max_bytes)

    def trim(self, keep: Collection[str]) -> list[str]:
        """Remove what was fetched and read longest ago, until the rest fits; returns what went."""
        return self._fetched.trim(keep)

    def listing(self, digest: str) -> Base:
        """Read a listing, having fetched the base where it is not here; raises BaseInvalid."""
        if not (self.path(digest) / LISTING).is_file():
            try:
                self._fetched.add(digest)
                self.take(self._origin, digest)
            except OSError as error:
                raise BaseInvalid(digest, f"cannot be fetched: {error}") from error
        self._fetched.read(digest)
        return super().listing(digest)
