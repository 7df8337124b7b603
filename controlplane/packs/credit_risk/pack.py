"""The credit-risk pack."""

from pathlib import Path

from controlplane.packs.credit_risk import metrics as metrics  # the suite names them
from controlplane.packs.credit_risk.scenarios import draw
from controlplane.packs.folder import FolderPack


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw)
