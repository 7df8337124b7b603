"""Statements are found where they were said, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.contract.grounding import Source

SAID = "Patient: Nothing hurts, no\n  fever.\tNo FEVER. \u0130zmir and straße, don't know."


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("no fever", "no\n  fever"),
        ("NO  fever.", "no\n  fever."),
        ("no", "no"),  # the first "no" is inside a word
        ("thing", None),
        ("fev", None),
        ("fever. no fever.", "fever.\tNo FEVER."),
        ("\u0130ZMIR", "\u0130zmir"),  # lower case would have a character more
        ("zmir", None),
        ("STRASSE", None),
        ("don't know.", "don't know."),
        ("", None),
        (" \n", None),
    ],
)
def test_a_statement_stands_where_it_was_said_word_by_word(statement: str, found: str | None) -> None:
    place = Source(SAID).place(statement)
    assert (None if place is None else SAID[slice(*place)]) == found


def test_said_twice_it_stands_in_two_places_and_then_in_the_first_again() -> None:
    source = Source("no fever, No Fever")
    assert [source.place("no fever") for _ in range(3)] == [(0, 8), (10, 18), (0, 8)]


WORDS = st.lists(st.text("abßİ.,'no", min_size=1, max_size=5), min_size=1, max_size=12)


@given(WORDS, st.data())
def test_every_run_of_whole_words_is_found_however_it_is_spaced(words: list[str], data: st.DataObject) -> None:
    text = " \n".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    run = words[first : last + 1]
    place = Source(text).place("\t ".join(run))
    assert place is not None
    assert [word.lower() for word in text[slice(*place)].split()] == [word.lower() for word in run]


@given(st.text(max_size=60), st.text(max_size=10))
def test_what_is_found_is_what_was_asked_for(text: str, statement: str) -> None:
    place = Source(text).place(statement)
    if place is not None:
        assert text[slice(*place)].lower().split() == statement.lower().split()
