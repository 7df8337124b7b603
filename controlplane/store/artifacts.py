"""Files by content: data sets and evidence, written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from controlplane.store.files import replace_file
from controlplane.store.vault import KeyId, Vault
from protos.contract.digest import digest_bytes, hex_of

MANIFEST = "manifest.json"


class ArtifactMissing(Exception):
    """No artifact has that digest, or its bytes have changed."""


class Artifacts:
    """A directory of artifacts; nothing in it is changed in place."""

    def __init__(self, root: Path, vault: Vault | None = None) -> None:
        self.root = root
        self._vault = vault

    def path(self, digest: str) -> Path:
        """Return where an artifact lives, present or not."""
        return self.root / "sha256" / hex_of(digest)

    def put(self, data: bytes) -> str:
        """Keep bytes and return their digest; keeping them twice is harmless."""
        digest = digest_bytes(data)
        self._write(self.path(digest), data)
        return digest

    def put_captured(self, data: bytes, of: Collection[KeyId]) -> str:
        """Keep bytes that hold captured records, and return their digest; sealed, until one of them is erased."""
        if not of:
            return self.put(data)
        assert self._vault is not None
        digest = digest_bytes(data)
        self._write(self._sealed(digest), self._vault.seal_set(digest, data, of))
        return digest

    def _sealed(self, digest: str) -> Path:
        return self.path(digest).with_suffix(".sealed")

    @staticmethod
    def _write(final: Path, data: bytes) -> None:
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            replace_file(final, data, 0o600)

    def get(self, digest: str) -> bytes:
        """Return an artifact's bytes, verified; raises ArtifactMissing."""
        sealed = self._sealed(digest)
        try:
            data = sealed.read_bytes() if sealed.exists() else self.path(digest).read_bytes()
        except OSError as error:
            raise ArtifactMissing(f"artifact {digest} cannot be read in {self.root}: {error.strerror}") from error
        if sealed.exists():
            assert self._vault is not None
            opened = self._vault.open_set(digest, data)
            if opened is None:
                raise ArtifactMissing(f"artifact {digest} held captured records that were erased")
            data = opened
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
