"""The bid-shading pack."""

from pathlib import Path

from controlplane.packs.bid_shading import metrics as metrics  # the suite names them
from controlplane.packs.bid_shading.scenarios import draw
from controlplane.packs.bid_shading.tenders import prepare
from controlplane.packs.folder import FolderPack


def load() -> FolderPack:
    """Build the pack."""
    return FolderPack(Path(__file__).parent, draw, {"bids-first-price-worldbank": prepare})
