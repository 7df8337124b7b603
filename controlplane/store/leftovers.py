"""What writers that were killed left behind in stores: nobody sees it, and it takes room."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from protos.contract.bundle import BundleStore
from protos.contract.url_store import UrlBases, UrlStore, bases_of

UNFINISHED = (".adding-", ".removing-")
YOUNGEST_S = 3600.0  # of what may go: a writer may still be at it


def leftovers(store: BundleStore, now: float, keep_s: float, *, delete: bool) -> dict[str, int]:
    """Find what no writer is going to finish in a store and beside its bases, and with ``delete`` remove it.

    Args:
        now: Unix seconds; what changed in the last ``keep_s``, or hour, stays.
    Returns:
        Bytes, by place.
    """
    before = now - max(keep_s, YOUNGEST_S)
    found: dict[str, int] = {}
    for part in (store, bases_of(store)):
        files = part.files if isinstance(part, UrlStore | UrlBases) else None
        for place, changed, size in _in_folder(part.root) if files is None else files.unfinished():
            if changed < before:
                found[place] = size
                if delete and files is not None:
                    files.clear(place)
                elif delete:
                    shutil.rmtree(place, ignore_errors=True)
    return found


def _in_folder(root: Path) -> Iterator[tuple[str, float, int]]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name.startswith(UNFINISHED) and folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # its writer was just done
                told = [path.lstat() for path in (folder, *folder.rglob("*"))]
                yield str(folder), max(one.st_mtime for one in told), sum(one.st_size for one in told[1:])
