"""Settings of mutations: what is wrong is named."""

from copy import deepcopy
from typing import Any

import pytest

from gateway.domain.decision import Decision
from gateway.rtb.mutations import Unit, mutations_of
from gateway.rtb.paths import Path, parse_source
from gateway.rtb.rules import MutationRule
from protos import artf_pb2, decide_pb2
from protos.contract.fields import FieldInvalid
from protos.openrtb_pb2 import BidRequest, BidResponse
from tests.gateway.rtb.rules import BRAND, MFA, RULES, SHADE

WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown field of OpenRTB": (BRAND, {"inputs": {"text": "request.site.titel"}}, "has no field 'titel'"),
    "not a value": (BRAND, {"inputs": {"text": "request.site"}}, "ends at a value"),
    "count of no list": (BRAND, {"inputs": {"text": "request.site.#"}}, "expected a list before '#'"),
    "root": (BRAND, {"inputs": {"text": "response.id"}}, "begins with one of request"),
    "root of another scope": (BRAND, {"inputs": {"text": "bid.price"}}, "rule.inputs.text is 'bid.price'"),
    "no inputs": (BRAND, {"inputs": {}}, "rule.inputs is empty"),
    "a number alone": (BRAND, {"inputs": {"text": 0}}, "rule.inputs.text is 0, expected a path"),
    "a number first": (BRAND, {"inputs": {"text": [0, "request.id"]}}, "expected a path or a list of paths"),
    "scope": (BRAND, {"scope": "page"}, "rule.scope is 'page', expected one of request, imp, bid"),
    "lifecycle": (BRAND, {"lifecycle": "later"}, "rule.lifecycle is 'later'"),
    "no intent": (BRAND, {"add_metrics": {}, "add_cids": {}}, "names no intent"),
    "shading of requests": (SHADE, {"scope": "request", "inputs": {"price": "request.tmax"}}, "expected 'bid'"),
    "metrics of bids": (MFA, {"scope": "bid", "inputs": {"domain": "request.site.domain"}}, "expected 'bid'"),
    "factor": (SHADE, {"bid_shade": {**SHADE["bid_shade"], "factors": {"half": 1.5}}}, "factors.half is 1.5"),
    "falling bounds": (
        SHADE,
        {"bid_shade": {**SHADE["bid_shade"], "thresholds": {"a": 0.8, "b": 0.5}}},
        "expected rising bounds",
    ),
    "unknown setting": (BRAND, {"intent": "ADD_CIDS"}, "unknown fields: intent"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_rule_is_refused_by_name(case: str) -> None:
    base, change, words = WRONG[case]
    with pytest.raises(FieldInvalid) as refused:
        MutationRule.from_json({**deepcopy(base), **change}, "rule")
    assert words in str(refused.value)


def test_a_rule_answers_the_intents_it_has_tables_for() -> None:
    assert [rule.intents for rule in RULES] == [
        (artf_pb2.ADD_METRICS, artf_pb2.ADD_CIDS),
        (artf_pb2.ADD_METRICS, artf_pb2.SUPPRESS_DEALS),
        (artf_pb2.BID_SHADE,),
    ]


def test_a_deal_with_a_policy_of_its_own_is_taken_away_by_that_alone() -> None:
    policies = {"tolerant": ["nobody"], "strict": ["low", "medium", "high", "nobody"]}
    table = {**deepcopy(MFA), "suppress_deals": {"decisions": ["high", "nobody"], "by_deal": policies}}
    rule = MutationRule.from_json(table, "rule")
    request = artf_pb2.RTBRequest()
    imp = request.bid_request.imp.add(id="1")
    for deal in ("tolerant", "strict", "usual"):
        imp.pmp.deals.add(id=deal)
    unit = Unit(rule, "/imp/1", {"request": request.bid_request, "imp": imp})
    taken = {}
    for name in ("all", "low", "high", "nobody"):
        decision = Decision("d", decide_pb2.ARM_PRIMARY, "sha256:0", 1, 0, name, 0.5)
        made = mutations_of(unit, decision, request)
        taken[name] = [deal for one in made if one.intent == artf_pb2.SUPPRESS_DEALS for deal in one.ids.id]
    assert taken == {
        "all": [],
        "low": ["strict"],
        "high": ["strict", "usual"],
        "nobody": ["tolerant", "strict", "usual"],
    }


def test_a_quotient_needs_both_numbers() -> None:
    share = parse_source("imp.bidfloor / bid.price", "here")
    imp, bid = BidRequest.Imp(bidfloor=2.0), BidResponse.Bid(price=8.0)
    assert share.read({"imp": imp, "bid": bid}) == [0.25]
    assert share.read({"imp": imp}) == share.read({"imp": imp, "bid": BidResponse.Bid(price=0.0)}) == []
    with pytest.raises(FieldInvalid, match="has no field 'cost'"):
        parse_source("imp.bidfloor / bid.cost", "here")


def test_a_path_follows_lists_and_skips_what_is_absent() -> None:
    request = BidRequest()
    cids = Path.parse("request.site.content.data.ext.cids", "here")
    assert cids.read({"request": request}) == []
    for name in ("a", "b"):
        request.site.content.data.add().ext.cids.extend([name, name + name])
    assert cids.read({"request": request}) == ["a", "aa", "b", "bb"]
    assert Path.parse("request.site.content.data.#", "here").read({"request": request}) == [2]
    assert Path.parse("imp.bidfloor", "here").read({"request": request}) == []
