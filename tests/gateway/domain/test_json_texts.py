"""Texts of JSON come out whole, once, with their keys, however the JSON arrives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.json_texts import JsonTexts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def read(pieces: list[str]) -> list[tuple[str, str]]:
    texts = JsonTexts()
    return [found for piece in pieces for found in texts.feed(piece)] + texts.end()


def values(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(key, value)]
    if isinstance(value, list):
        return [found for item in value for found in values(item, key)]
    return [found for name, item in value.items() for found in values(item, name)] if isinstance(value, dict) else []


@given(JSON, st.booleans(), st.integers(1, 7), st.sampled_from([None, 1]))
def test_every_text_value_comes_with_its_key_whatever_the_pieces(
    value: Any, is_ascii: bool, size: int, indent: int | None
) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert read([written[i : i + size] for i in range(0, len(written), size)]) == values(value)


@given(st.lists(st.text('{}[]:,"\\\\ud8a\\n', max_size=9), max_size=9))
def test_what_is_no_json_breaks_nothing(pieces: list[str]) -> None:
    assert all(text.encode() and key.encode() is not None for key, text in read(pieces) if text)


def test_a_text_comes_as_soon_as_it_is_known_to_be_no_key() -> None:
    texts = JsonTexts()
    assert texts.feed('{"plan": ["rest') == []
    assert texts.feed('", ') == [("plan", "rest")]
    assert texts.feed('"come back') == []  # cut short, it is no statement
    assert texts.end() == []


@pytest.mark.parametrize("half", ['["\\ud800"]', '["\\udc00x"]'])
def test_half_a_character_is_replaced_because_no_message_carries_it(half: str) -> None:
    ((_, text),) = read([half])
    assert text.startswith("?")
