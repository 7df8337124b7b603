"""Notes by choosing: nothing in them that was not said, a schema that holds, a check that people agree with in part."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.packs.clinical_note.factuality import agreement, factuality
from controlplane.packs.clinical_note.note import (
    OMITTED,
    SECTIONS,
    Answer,
    answer_of,
    check_note,
    note_of,
    request_of,
    statements,
    turns_of,
)
from controlplane.packs.clinical_note.scenarios import draw
from controlplane.packs.folder import to_input
from controlplane.packs.registry import load_pack
from controlplane.training.additive import fit
from protos import decide_pb2
from protos.contract.additive import Additive
from protos.contract.task import render
from tests.tasks import complaint

PACK = load_pack("clinical-note")
SCORES = Path(__file__).parents[4] / "shared/data/clinical-note-human-scores/dev.jsonl.gz"
ENCOUNTER = (
    "Doctor: Good morning. What brings you in?\n"
    "Patient: My left knee hurts. No fever though.\n"
    "Doctor: Are you taking anything?\n"
    "Patient: Metformin 500 milligrams, and I stopped the warfarin.\n"
)


def test_statements_know_the_question_that_another_asked() -> None:
    turns = list(turns_of(ENCOUNTER))
    assert [(t.asked, t.said) for t in turns] == [
        ("", "Good morning."),
        ("", "What brings you in?"),
        ("What brings you in?", "My left knee hurts."),
        ("What brings you in?", "No fever though."),
        ("", "Are you taking anything?"),
        ("Are you taking anything?", "Metformin 500 milligrams, and I stopped the warfarin."),
    ]
    assert all(ENCOUNTER[t.start : t.end] == t.said for t in turns)


def test_who_speaks_may_stand_in_brackets() -> None:
    bracketed = ENCOUNTER.replace("Doctor:", "[doctor]").replace("Patient:", "[patient]")
    turns = list(turns_of(bracketed))
    assert [(t.asked, t.said) for t in turns] == [(t.asked, t.said) for t in turns_of(ENCOUNTER)]
    assert all(bracketed[t.start : t.end] == t.said for t in turns)


@given(st.text(max_size=400), st.integers(0, 2**32))
def test_no_transcript_and_no_answers_break_a_note(transcript: str, seed: int) -> None:
    rng = random.Random(seed)

    def decide(turns: Any) -> list[Answer]:
        return [Answer(rng.random() < 0.7, rng.choice((*SECTIONS, OMITTED, "gossip")), rng.random()) for _ in turns]

    note = note_of(statements(transcript, decide))
    assert check_note(note, transcript) == []
    assert list(note["sections"]) == list(SECTIONS) and json.loads(json.dumps(note)) == note


@given(st.text(max_size=3000))
def test_every_turn_is_a_question_that_the_task_takes(transcript: str) -> None:
    for turn in turns_of(transcript):
        assert complaint(PACK.task, request_of(turn).input) == ""


WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([], "note has no sections"),
    "section": ({"sections": {**dict.fromkeys(SECTIONS, []), "gossip": []}}, "sections has 'gossip'"),
    "missing": ({"sections": {name: [] for name in SECTIONS[1:]}}, "sections.history is missing"),
    "made up": ([{"text": "My right knee hurts.", "span": [42, 61]}], "is not what the transcript says at [42, 61]"),
    "no span": ([{"text": "My left knee hurts."}], "span is None, expected two places"),
    "no text": ([{"text": " ", "span": [0, 1]}], "text is ' ', expected words"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_writer_made_up_is_found_by_place(case: str) -> None:
    given_note, words = WRONG[case]
    note = given_note
    if isinstance(given_note, list) and given_note:
        note = {"sections": {**dict.fromkeys(SECTIONS, []), "history": given_note}}
    assert words in " ".join(check_note(note, ENCOUNTER))


def test_a_fallback_keeps_nothing() -> None:
    response = decide_pb2.DecideResponse(decision="keep")
    response.fallback.used = True
    assert not answer_of(response).is_kept


def test_critical_facts_of_made_up_encounters_reach_their_sections() -> None:
    fitted = fit(PACK.task, PACK.training_set(900, 1), PACK.held_out(100, 2), seed=1)
    model = Additive.from_json(PACK.task, fitted.body, "m")

    def decide(turns: Any) -> list[Answer]:
        texts = [render(PACK.task, request_of(turn).input) for turn in turns]
        answers = []
        for row in fitted.head.probabilities(model.logits(texts)).tolist():
            response = decide_pb2.DecideResponse(decision=PACK.task.decisions[fitted.head.decide(PACK.task, row)])
            for label, probability in zip(PACK.task.labels, row, strict=True):
                response.probabilities.add(label=label, probability=probability)
            answers.append(answer_of(response))
        return answers

    rng = random.Random(9)
    said: list[tuple[str, str]] = []
    lines = []
    for _ in range(120):
        drawn = draw(rng, False)
        if drawn.fields.get("asked"):
            lines.append(f"Doctor: {drawn.fields['asked']}?")
        lines.append(f"{'Patient' if drawn.fields.get('asked') else 'Doctor'}: {drawn.fields['said']}")
        said.append((drawn.label, str(drawn.fields["said"])))
        to_input(PACK.task, drawn.fields)
    transcript = "\n".join(lines)
    note = note_of(statements(transcript, decide))
    assert check_note(note, transcript) == []
    for section in ("medications", "allergies"):
        wanted = {text for label, text in said if label == section}
        found = {one["text"] for one in note["sections"][section]}
        assert len(wanted & found) >= 0.9 * len(wanted), wanted - found
    # A negation stands in the note as it was said: it is the same stretch of the transcript.
    denied = [text for _, text in said if "no, " in text]
    kept = [one["text"] for statements in note["sections"].values() for one in statements]
    assert denied and all(text in kept for text in denied)


FACTS = {
    "the same": ("left knee pain for 3 weeks", "left knee pain for three weeks", 1.0),
    "wrong side": ("right knee pain", "left knee pain", 0.4),
    "wrong number": ("took 50 tablets", "took 5 tablets", 0.4),
    "a number of two words": ("26 years old", "she is twenty six years old", 1.0),
    "wrong unit": ("5 ml syrup", "5 milligrams syrup", 4 / 7),
    "same unit": ("5 mg syrup", "five milligrams of syrup", 1.0),
    "negation lost": ("fever", "no fever", 0.0),
    "negation lost in a list": ("vomiting", "denies fever, chills, cough, sweats, nausea or vomiting", 0.0),
    "a negation ends with its sentence": ("knee pain", "No fever. Knee pain.", 1.0),
    "nothing found says what is denied": ("no fever", "noncontributory", 1.0),
    "nothing to be wrong": ("None.", "None.", 1.0),
    "nothing in common": ("headache", "broken ankle", 0.0),
}


@pytest.mark.parametrize("case", FACTS)
def test_sides_numbers_units_and_negations_count(case: str) -> None:
    note, source, precision = FACTS[case]
    assert factuality(note, source)["precision"] == pytest.approx(precision, abs=0.01)


def test_what_was_said_besides_is_no_invention_and_not_missed() -> None:
    alone, beside = factuality("knee pain, smokes", "knee pain"), factuality("knee pain, smokes", "knee pain", "smokes")
    assert alone["precision"] < beside["precision"] == 1.0
    assert alone["recall"] == beside["recall"] == 1.0


def test_a_clause_in_other_words_counts_by_its_likeness_and_a_wrong_number_stays_one() -> None:
    places = {"hypertension": [1.0, 0.0], "high blood pressure": [0.8, 0.6], "5 tablets": [0.0, 1.0]}

    def embed(texts: list[str]) -> Any:
        return np.array([places.get(text, [0.0, 1.0]) for text in texts])

    assert factuality("high blood pressure", "hypertension")["recall"] == 0.0
    assert factuality("high blood pressure", "hypertension", embed=embed)["recall"] == pytest.approx(0.4)
    assert factuality("50 tablets", "5 tablets", embed=embed)["recall"] < 0.7


@pytest.mark.skipif(not SCORES.is_file(), reason="the human scores are not on this machine")
def test_the_check_agrees_with_people() -> None:
    found = agreement(SCORES)
    assert found["recall"] > 0.42 and found["f1"] > 0.40 and found["precision"] > 0.25
