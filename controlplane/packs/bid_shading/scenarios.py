"""Auctions as cases: what a bidder sees, labelled by the bucket of the least winning bid."""

import random

from controlplane.packs.bid_shading.auction import Auction, draw_auction
from controlplane.packs.bid_shading.buckets import label_of
from controlplane.packs.folder import Scalar, Scenario


def fields_of(auction: Auction) -> dict[str, Scalar]:
    """Return what a bidder sends; shares are of the price."""
    return {
        "floor_share": round(auction.floor / auction.price, 3),
        "landscape_share": round(auction.landscape / auction.price, 3),
        "price": round(auction.price, 2),
        "hour": auction.hour,
        "exchange": auction.exchange,
        "format": auction.format,
        "country": auction.country,
        "site": auction.site,
    }


def draw(rng: random.Random, wave: bool) -> Scenario:
    """Draw one case."""
    auction = draw_auction(rng, wave=wave)
    return Scenario(fields_of(auction), label_of(auction.least / auction.price), auction.exchange)
