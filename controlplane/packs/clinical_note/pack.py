"""The clinical-note pack."""

from pathlib import Path

from controlplane.packs.clinical_note.scenarios import draw
from controlplane.packs.folder import FolderPack


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw)
