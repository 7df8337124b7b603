"""What an engine wrote, put in its place: word by word, whole words, and what is nowhere is flagged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.packs.clinical_note.factuality import critical_facts
from controlplane.packs.clinical_note.generated import NoteMalformed, read_note, schema_of
from controlplane.packs.clinical_note.note import SECTIONS, check_note, turns_of

SAID = "Patient: My left  knee hurts. No fever.\nPatient: No fever.\nDoctor: Take ibuprofen 400, nothing else."


def note_of(*texts: str) -> str:
    return json.dumps({name: list(texts) if name == "history" else [] for name in SECTIONS})


CASES = {
    "word by word": ("My left  knee hurts.", True),
    "other case and spacing": ("my LEFT knee\nhurts.", True),
    "other side": ("My right knee hurts.", False),
    "negation lost": ("fever", True),  # said, though not alone: the span shows the "No" before it
    "part of a word": ("no", True),
    "cut inside a word": ("thing else", False),
    "other dose": ("ibuprofen 40", False),
    "other medicine": ("Take naproxen 400", False),
    "nothing": ("  ", False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_statement_is_in_the_transcript_or_flagged(case: str) -> None:
    text, is_there = CASES[case]
    note = read_note(note_of(text), SAID)
    (one,) = note["sections"]["history"]
    assert ("span" in one, "ungrounded" in one, note["ungrounded"]) == (is_there, not is_there, int(not is_there))
    if is_there:
        assert SAID[slice(*one["span"])] == one["text"]
        assert check_note(note, SAID) == []


@pytest.mark.parametrize(
    ("text", "worst"),
    [
        ("My right knee hurts.", ["right"]),
        ("ibuprofen 40 milligrams", ["40", "40mg"]),
        ("Take naproxen 400", ["naproxen"]),
        ("The knee is sore.", []),
    ],
)
def test_of_a_flagged_statement_the_harmful_part_is_named(text: str, worst: list[str]) -> None:
    (one,) = read_note(note_of(text), SAID)["sections"]["history"]
    assert one["unsaid"] == worst


def test_what_was_said_twice_is_in_two_places() -> None:
    first, second = read_note(note_of("No fever.", "No fever."), SAID)["sections"]["history"]
    assert first["span"] != second["span"] and first["text"] == second["text"]


@given(st.text(max_size=200))
def test_nothing_written_breaks_the_reader(written: str) -> None:
    with pytest.raises(NoteMalformed):
        read_note(written, SAID)
    note = read_note(note_of(written), SAID)
    assert note["ungrounded"] in (0, 1)


def test_the_constraint_offers_the_sentences_and_nothing_else() -> None:
    turns = list(turns_of(SAID))
    schema = schema_of(turns)
    assert schema["properties"]["plan"]["items"] == {"enum": list(dict.fromkeys(turn.said for turn in turns))}
    assert schema["required"] == list(SECTIONS) and not schema["additionalProperties"]
    assert schema_of([])["properties"]["plan"]["maxItems"] == 0


FACTS = {
    "medicine left out": ("knee pain", "takes warfarin for knee pain", 1.0, 0.0),
    "medicine swapped": ("takes heparin", "takes warfarin", 0.0, 0.0),
    "side swapped": ("right knee", "left knee", 0.0, 0.0),
    "dose changed": ("metformin 50", "metformin 500", 0.5, 0.5),
    "all kept": ("left knee, metformin 500", "metformin 500 for the left knee", 1.0, 1.0),
    "nothing critical": ("feels well", "is fine", 1.0, 1.0),
}


@pytest.mark.parametrize("case", FACTS)
def test_medicines_sides_and_numbers_are_critical(case: str) -> None:
    note, source, precision, recall = FACTS[case]
    assert critical_facts(note, source) == {"precision": precision, "recall": recall}
