"""A market of first-price auctions whose win probability is known, so that a shader's regret can be measured.

The highest other bid is log-normal around what the impression's features say; the least bid that wins
is that or the floor, whichever is higher. Prices are CPM in USD.
"""

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
_GRID = 400

SITES: dict[str, float] = {
    "harbour-times.example": 2.6,
    "pitchside.example": 1.9,
    "slow-kitchen.example": 1.5,
    "ledger-daily.example": 3.4,
    "star-forum.example": 0.7,
    "quizbarn.example": 0.35,
    "weather-now.example": 0.9,
    "streamcorner.example": 1.2,
    "parent-notes.example": 1.4,
    "gadget-bench.example": 2.1,
    "trailmap.example": 1.1,
    "motor-yard.example": 1.7,
}
FORMATS = {"300x250": 1.0, "728x90": 0.8, "320x50": 0.45, "970x250": 1.6, "video": 4.2}
COUNTRIES = {"USA": 1.5, "GBR": 1.2, "DEU": 1.1, "BRA": 0.5, "IND": 0.3}
# (level, spread): how high others bid against the base price, and how little they agree
EXCHANGES = {"ex-open": (0.0, 0.45), "ex-curated": (0.18, 0.25), "ex-mobile": (-0.15, 0.6)}
NEW_EXCHANGE = ("ex-new", (0.45, 0.3))


@dataclass(frozen=True, slots=True)
class Auction:
    """One impression as a bidder meets it, and what it cannot see: how others bid.

    Attributes:
        price: What the impression is worth to us: the bid before shading.
        landscape: What bids of late needed to win on such impressions, as a bidder's own logs tell it, with noise.
        location, spread: Mean and deviation of the logarithm of the highest other bid.
        others: That bid, in this auction.
    """

    site: str
    format: str
    country: str
    exchange: str
    hour: int
    price: float
    floor: float
    landscape: float
    location: float
    spread: float
    others: float

    @property
    def least(self) -> float:
        """The least bid that wins."""
        return max(self.others, self.floor)

    def win_probability(self, bid: float) -> float:
        """Return the chance that a bid wins, over what others might have bid."""
        if bid <= 0 or bid < self.floor:
            return 0.0
        return _NORMAL.cdf((math.log(bid) - self.location) / self.spread)

    def expected_surplus(self, bid: float) -> float:
        """Return what a bid is expected to keep of the price."""
        return (self.price - bid) * self.win_probability(bid)

    def best_bid(self) -> float:
        """Return the bid of highest expected surplus, to a 400th of the price; a floor above the price leaves none."""
        bids = [self.price * i / _GRID for i in range(1, _GRID)] + [self.floor] * (self.floor < self.price)
        return max(bids, key=self.expected_surplus)


def draw_auction(rng: random.Random, *, wave: bool) -> Auction:
    """Draw an auction; in the wave a new exchange with stronger bidders and dynamic floors takes traffic."""
    site, format_, country = (rng.choice(list(table)) for table in (SITES, FORMATS, COUNTRIES))
    exchange, (level, spread) = NEW_EXCHANGE if wave else rng.choice(list(EXCHANGES.items()))
    hour = min(23, max(0, round(rng.gauss(15, 5))))
    base = SITES[site] * FORMATS[format_] * COUNTRIES[country]
    evening = 0.35 * math.exp(-(((hour - 20) / 2.5) ** 2))
    # Video in the evening is contested beyond what either says alone.
    location = math.log(base) + level + evening * (1.6 if format_ == "video" else 1.0)
    price = base * math.exp(rng.gauss(0.5, 0.3))
    share = rng.betavariate(5, 4) if wave else rng.betavariate(2, 5)
    return Auction(
        site=site,
        format=format_,
        country=country,
        exchange=exchange,
        hour=hour,
        price=round(price, 4),
        floor=round(share * math.exp(location), 4),
        landscape=round(math.exp(location + rng.gauss(0, 0.2)), 4),
        location=location,
        spread=spread,
        others=math.exp(location + spread * rng.gauss(0, 1)),
    )
