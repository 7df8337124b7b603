"""The mfa-filter pack."""

from pathlib import Path

from controlplane.packs.folder import FolderPack
from controlplane.packs.mfa_filter.scenarios import draw


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw)
