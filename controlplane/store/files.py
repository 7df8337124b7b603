"""Files that are replaced as a whole."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that whoever reads it, even after a crash, finds all of the old one or all of the new one.

    Args:
        mode: Of a new file; one that was there keeps its own.
    """
    if path.exists():
        mode = path.stat().st_mode & 0o777
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, mode)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
