"""Asking the gateway as a caller does."""

from typing import Any

import pytest

from controlplane.cli.decide import _value
from controlplane.packs.registry import load_pack
from protos.contract.task import check_input, render
from tests.controlplane.cli.fake import FakeGateway, interlock, said


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("true", "flag", True),
        ("True", "text", "True"),
        ("12", "integer", 12),
        ("-9223372036854775808", "integer", -(2**63)),
        ("9223372036854775808", "text", "9223372036854775808"),
        ("1.5", "number", 1.5),
        ("2e3", "number", 2000.0),
        ("1e999", "text", "1e999"),
        ("NaN", "text", "NaN"),
        ("Infinity", "text", "Infinity"),
        ("007", "text", "007"),
        ("1_0", "text", "1_0"),
        ("٣", "text", "٣"),
        ('{"a": 1}', "text", '{"a": 1}'),
        ('"12"', "text", "12"),
        ('"', "text", '"'),
        ("", "text", ""),
    ],
)
def test_a_field_takes_the_type_it_looks_like(text: str, kind: str, value: Any) -> None:
    found = _value(text)
    assert (found.WhichOneof("kind"), getattr(found, kind)) == (kind, value)


def test_decide_sends_fields_key_and_id(gateway: FakeGateway) -> None:
    fields = ("--field", "amount=1.5", "--field", "note=a=b")
    code, found = said("decide", "brand", *fields, "--key", "user-1", "--decision-id", "d-1")
    assert (code, found["plan_generation"], found["fallback"]["used"]) == (0, 2**40, True)
    asked = gateway.asked[0]
    assert (asked.routing_key, asked.decision_id, asked.input.fields["note"].text) == ("user-1", "d-1", "a=b")


@pytest.mark.parametrize("written", ["20000", "20000.0", "2e4"])
def test_a_number_may_be_written_without_a_point_and_reads_the_same(gateway: FakeGateway, written: str) -> None:
    task = load_pack("credit-risk").task
    others = ("income=40000", "burden=0.3", "utilisation=0.2", "delinquencies=0", "inquiries=1", "months_known=24")
    fields = [word for one in (f"requested={written}", *others, "purpose=a car") for word in ("--field", one)]
    assert interlock("decide", task.name, *fields)[0] == 0
    given = gateway.asked[0].input
    check_input(task, given)
    assert "requested: 20000.0\n" in render(task, given) and "delinquencies: 0\n" in render(task, given)


def test_only_a_tester_s_call_names_a_bundle_and_shows_a_token(gateway: FakeGateway) -> None:
    assert interlock("decide", "brand", "lemons", "--override", "candidate", "--token", "secret")[0] == 0
    assert gateway.told["interlock-override"] == "candidate"
    assert gateway.told["authorization"] == "Bearer secret"
    assert interlock("decide", "brand", "lemons", "--token", "secret")[0] == 0
    assert not {"interlock-override", "authorization"} & set(gateway.told)


def test_decide_says_where_the_answer_came_from(gateway: FakeGateway) -> None:
    code, text = interlock("decide", "brand", "lemons")
    assert code == 0
    for words in (
        "block [/now]",
        "fallback, no_time",
        "input truncated",
        "arm canary",
        "bucket 77",
        "bbbbbbbbbbbb",
        "utilisation",
        "+1.25",
    ):
        assert words in text


def test_outcome_reports_the_truth_and_who_says_so(gateway: FakeGateway) -> None:
    code, found = said("outcome", "brand", "d-1", "unsafe", "--source", "reviewer")
    assert (code, found) == (0, {"recorded": True})
    assert (gateway.asked[0].label, gateway.asked[0].source) == ("unsafe", "reviewer")
