"""The fraud pack."""

from pathlib import Path

from controlplane.packs.folder import FolderPack
from controlplane.packs.fraud import metrics as metrics  # the suite names them
from controlplane.packs.fraud.scenarios import draw


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw)
