"""World Bank tenders as bid-shading cases, with the sign mirrored.

In a sealed-bid tender the lowest price wins, so that shading means marking up: a winner could have
asked up to the cheapest losing bid. Marking up by a factor of 1/s wins where s is at least winning
price / cheapest losing price. That share takes the place of least winning bid / price.
"""

import math
from collections.abc import Mapping
from typing import Any

from controlplane.packs.bid_shading.buckets import label_of


def prepare(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn a contract award into a case; what only the opening of the bids tells is left out."""
    ratio, price = float(row["best_losing_ratio"]), float(row["winning_price"])
    if not (ratio > 0 and price > 0):
        raise ValueError(f"best_losing_ratio is {ratio} and winning_price is {price}, expected above 0")
    return {
        "label": label_of(1 / ratio),
        "magnitude": round(math.log10(price), 3),
        "n_bids": int(row["n_bids_total"]),
        "country": row["country"] or "unknown",
        "currency": row["currency"] or "unknown",
    }
