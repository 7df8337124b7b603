"""Settings of three specialists that tests share."""

from typing import Any

from gateway.rtb.rules import MutationRule

BRAND: dict[str, Any] = {
    "specialist": "brand",
    "scope": "request",
    "inputs": {"text": ["request.site.content.title", "request.site.keywords"]},
    "add_metrics": {"type": "brand_risk", "vendor": "interlock"},
    "add_cids": {"vendor": "interlock", "by_label": {"unsafe": ["floor"]}},
    "rejected_label": "safe",
}
MFA: dict[str, Any] = {
    "specialist": "mfa",
    "scope": "imp",
    "inputs": {
        "domain": "request.site.domain",
        "hops": "request.source.schain.nodes.#",
        "refreshes": "imp.refresh.count",
    },
    "add_metrics": {"type": "mfa", "vendor": "interlock", "per_label": True},
    "suppress_deals": {"decisions": ["block"]},
}
SHADE: dict[str, Any] = {
    "specialist": "shade",
    "scope": "bid",
    "inputs": {"price": "bid.price", "floor": "imp.bidfloor"},
    "bid_shade": {
        "factors": {"half": 0.5, "most": 0.8, "all": 1.0},
        "thresholds": {"low": 0.5, "middle": 0.8, "high": 1.0},
        "above": "beyond",
    },
}
RULES = tuple(MutationRule.from_json(value, "rule") for value in (BRAND, MFA, SHADE))
