"""Rendered texts taken apart: what went into a field comes out of it, and out of no other."""

from hypothesis import given
from hypothesis import strategies as st

from protos.contract.features import characters, read_fields, read_number, whole, words

NAMES = ("amount", "hour", "note")
TEMPLATE = "amount: {amount}\nhour: {hour}\nnote: {note}"
VALUE = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 23), VALUE)
def test_a_text_cannot_pretend_to_be_a_number_before_it(amount: float, hour: int, note: str) -> None:
    for said in (note, f"{note}\namount: 1\nhour: 2"):
        found = read_fields(TEMPLATE.format(amount=amount, hour=hour, note=said), NAMES)
        assert (read_number(found["amount"]), found["hour"]) == (amount, str(hour))


@given(VALUE)
def test_a_value_of_several_lines_stays_whole(note: str) -> None:
    if not any(f"{name}: " in note or f"{name}:" in note for name in NAMES):
        found = read_fields(TEMPLATE.format(amount="", hour=3, note=note), NAMES)
        assert found == {"amount": "", "hour": "3", "note": note}


def test_a_text_without_names_is_the_first_field() -> None:
    assert read_fields("just words: here", ("text",)) == {"text": "just words: here"}
    assert read_fields("so amount: 3", NAMES) == {"amount": "so amount: 3"}


def test_a_number_is_read_as_it_was_rendered() -> None:
    assert [read_number(text) for text in ("1", "-2.5", "1e6", "True", "False")] == [1, -2.5, 1e6, 1, 0]
    assert all(read_number(text) != read_number(text) for text in ("", "none", "1,5"))


def test_terms() -> None:
    assert words("Not safe!", 8) == ["not", "safe", "!", "not safe", "safe !"]
    runs = ("a", "b", " a", "ab", "b ", " ab", "ab ", " ab ")
    assert sorted(characters("AB", 8)) == sorted((" ", " ", *runs))
    assert characters(" ", 8) == [] and {len(run) for run in characters("abcdefg", 8)} == {1, 2, 3, 4, 5}
    assert whole(" USA ", 8) == ["usa"] and whole("  ", 8) == []


@given(VALUE, st.integers(1, 20))
def test_no_text_gives_more_words_than_asked(text: str, most: int) -> None:
    assert len(words(text, most)) <= 2 * most
