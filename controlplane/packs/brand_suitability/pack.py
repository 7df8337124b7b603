"""The brand-suitability pack."""

from pathlib import Path

from controlplane.packs.brand_suitability import metrics as metrics  # the suite names them
from controlplane.packs.brand_suitability.scenarios import draw
from controlplane.packs.folder import FolderPack


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw)
