"""Files by content: data sets and evidence, written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from protos.contract.digest import digest_bytes, hex_of

MANIFEST = "manifest.json"


class ArtifactMissing(Exception):
    """No artifact has that digest, or its bytes have changed."""


class Artifacts:
    """A directory of artifacts; nothing in it is changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Return where an artifact lives, present or not."""
        return self.root / "sha256" / hex_of(digest)

    def put(self, data: bytes) -> str:
        """Keep bytes and return their digest; keeping them twice is harmless."""
        digest = digest_bytes(data)
        final = self.path(digest)
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=final.parent, prefix=".adding-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, final)
        return digest

    def get(self, digest: str) -> bytes:
        """Return an artifact's bytes, verified; raises ArtifactMissing."""
        try:
            data = self.path(digest).read_bytes()
        except OSError as error:
            raise ArtifactMissing(f"artifact {digest} cannot be read: {error.strerror}") from error
        if digest_bytes(data) != digest:
            raise ArtifactMissing(f"artifact {digest} has been altered")
        return data

    def put_directory(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Write a directory of files under ``evidence/`` in one step, replacing one of the same name."""
        final = self.root / "evidence" / name
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=final.parent))
        for path, data in files.items():
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        staging.chmod(0o755)
        old = Path(tempfile.mkdtemp(prefix=".removing-", dir=final.parent))
        if final.exists():
            os.replace(final, old / "old")
        os.replace(staging, final)
        shutil.rmtree(old, ignore_errors=True)
        return final
