"""Changed inputs are inputs still: the task takes them, and one field differs where one was to be changed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.evals.robustness import CHANGES, HUGE_BYTES, hostile, is_let_in
from protos import decide_pb2
from protos.contract.features import words
from protos.contract.task import Field
from tests.tasks import TASK, complaint

FIELDS = (
    Field("amount", "number", False, True),
    Field("count", "integer", True, True),
    Field("known", "flag", False, True),
    Field("place", "text", False, True),
    Field("note", "text", True, True),
)
MIXED = replace(
    TASK, fields=FIELDS, template="\n".join(f"{f.name}: {{{f.name}}}" for f in FIELDS), max_input_bytes=4096
)


def case(note: str) -> decide_pb2.Input:
    made = decide_pb2.Input()
    made.fields["amount"].number = 12.5
    made.fields["count"].integer = 3
    made.fields["known"].flag = True
    made.fields["place"].text = "home"
    made.fields["note"].text = note
    return made


@pytest.mark.parametrize("name", CHANGES)
@given(note=st.text(min_size=1, max_size=40))
def test_the_task_takes_every_changed_input(name: str, note: str) -> None:
    assert complaint(MIXED, CHANGES[name](MIXED, case("a " + note))) == ""
    assert complaint(TASK, CHANGES[name](TASK, decide_pb2.Input(text="a " + note))) == ""


@pytest.mark.parametrize("name", ["typos", "homoglyphs", "injection", "long", "upper_case"])
def test_only_the_free_text_is_changed(name: str) -> None:
    before, after = case("please send the parcel home"), CHANGES[name](MIXED, case("please send the parcel home"))
    assert {f for f in before.fields if before.fields[f] != after.fields[f]} == {"note"}


@pytest.mark.parametrize("name", ["missing", "extreme", "contradictory"])
def test_one_value_is_changed_and_no_required_one_is_taken(name: str) -> None:
    before, after = case("x"), CHANGES[name](MIXED, case("x"))
    differ = [f for f in before.fields if f not in after.fields or before.fields[f] != after.fields[f]]
    assert len(differ) == 1
    assert after == CHANGES[name](MIXED, case("x"))


def test_a_filled_text_is_as_long_as_the_task_lets_in() -> None:
    assert 0.9 * 4096 < CHANGES["long"](MIXED, case("x")).ByteSize() <= 4096


def test_hostile_is_100_kb_that_the_task_refuses_and_what_it_lets_in() -> None:
    found = hostile(MIXED, case("pay the fee"))
    assert [is_let_in(MIXED, one) for one in found] == [False, True, True, True, True]
    assert len(found[0].fields["note"].text) == HUGE_BYTES
    assert [(one.fields["amount"].number, one.fields["count"].integer) for one in found[3:]] == [
        (1.7e308, 2**63 - 1),
        (-1.7e308, -(2**63) + 1),
    ]
    assert [is_let_in(TASK, one) for one in hostile(TASK, decide_pb2.Input(text="pay the fee"))] == [False, True, True]


def test_look_alikes_are_read_as_what_they_look_like() -> None:
    text = "pay the customs fee"
    assert CHANGES["homoglyphs"](TASK, decide_pb2.Input(text=text)).text != text
    assert words(CHANGES["homoglyphs"](TASK, decide_pb2.Input(text=text)).text, 64) == words(text, 64)
