"""The rules that packs bring for auctions: they speak of their own task, and an auction asks it what it can answer."""

import tomllib
from pathlib import Path

import pytest

from gateway.rtb.mutations import input_of, units_of
from gateway.rtb.rules import MutationRule
from protos import artf_pb2
from protos.contract.task import TaskSpec, check_input

FOLDERS = {
    path.parent.name: path.parent
    for path in sorted((Path(__file__).parents[3] / "controlplane/packs").glob("*/exchange.toml"))
}


def read(name: str) -> tuple[MutationRule, TaskSpec]:
    settings = tomllib.loads((FOLDERS[name] / "exchange.toml").read_text("utf-8"))
    (table,) = settings["gateway"]["mutations"]
    task = TaskSpec.from_json(tomllib.loads((FOLDERS[name] / "task.toml").read_text("utf-8")))
    return MutationRule.from_json(table, "rule"), task


def auction(rule: MutationRule) -> artf_pb2.RTBRequest:
    """An auction that says as little as exchanges do: no floor, no supply chain, no refresh."""
    request = artf_pb2.RTBRequest(lifecycle=rule.lifecycle, id="q")  # type: ignore[arg-type]
    asked = request.bid_request
    asked.id, asked.site.domain, asked.site.content.title = "a", "news.example", "a title"
    asked.source.pchain = "ex-open"
    asked.imp.add(id="1")
    request.bid_response.seatbid.add(seat="s").bid.add(id="1", impid="1", price=2.0)
    return request


def test_the_three_kinds_of_mutation_are_there() -> None:
    found = {name: set(read(name)[0].intents) for name in FOLDERS}
    assert found == {
        "bid_shading": {artf_pb2.BID_SHADE},
        "brand_suitability": {artf_pb2.ADD_METRICS, artf_pb2.ADD_CIDS, artf_pb2.SUPPRESS_DEALS},
        "mfa_filter": {artf_pb2.ADD_METRICS, artf_pb2.SUPPRESS_DEALS},
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_every_name_in_a_rule_is_one_of_the_tasks(name: str) -> None:
    rule, task = read(name)
    assert rule.specialist == task.name
    assert set(rule.inputs) <= {field.name for field in task.fields}
    if rule.cids is not None:
        assert set(rule.cids.by_label) <= set(task.labels)
    if rule.suppress is not None:
        policies = [rule.suppress.decisions, *rule.suppress.by_deal.values()]
        assert {decision for policy in policies for decision in policy} <= set(task.decisions)
    if rule.shade is not None:
        assert set(rule.shade.factors) == set(task.decisions)
        assert (*(label for label, _ in rule.shade.thresholds), rule.shade.above) == task.labels
    assert {rule.accepted_label, rule.rejected_label} <= {None, *task.labels}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_auction_that_says_little_is_a_question_that_the_task_takes(name: str) -> None:
    rule, task = read(name)
    (unit,) = units_of((rule,), auction(rule))
    given = input_of(unit, task)
    assert given is not None
    check_input(task, given)


def test_an_impression_without_a_floor_has_none() -> None:
    rule, task = read("bid_shading")
    request = auction(rule)
    for floor, share in ((None, 0.0), (0.5, 0.25)):
        if floor is not None:
            request.bid_request.imp[0].bidfloor = floor
        (unit,) = units_of((rule,), request)
        given = input_of(unit, task)
        assert given is not None and given.fields["floor_share"].number == share
