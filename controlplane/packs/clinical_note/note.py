"""From an encounter's transcript to a structured note, by choosing and never by writing.

Every statement of a note is a stretch of the transcript with its place, so the note cannot say what nobody said,
and its schema holds whatever a model answers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from protos import decide_pb2

SECTIONS = ("history", "medications", "allergies", "problems", "exam", "plan")
OMITTED = "nothing"
BATCH = 32
_TURN = re.compile(
    r"^[ \t]*(?:(?:\[(?P<tag>[A-Za-z][\w .]{0,30})\]|(?P<who>[A-Za-z][\w .\[\]]{0,30}):)[ \t]*)?(?P<said>\S.*?)[ \t]*$",
    re.MULTILINE,
)
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|$)", re.DOTALL)
MOST_BYTES = 2000  # of a statement: a turn without an end is cut, and the rest is a statement of its own


@dataclass(frozen=True, slots=True)
class Turn:
    """One sentence of the transcript, and the question before it. ``start`` and ``end`` are characters."""

    asked: str
    said: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a specialist says of a turn: keep it or not, and in which section."""

    is_kept: bool
    section: str
    score: float


# Turns to answers, in their order.
Decide = Callable[[Sequence[Turn]], Sequence[Answer]]


def turns_of(transcript: str) -> Iterator[Turn]:
    """Cut a transcript into sentences; a question is remembered for what is said next by another.

    Who speaks stands before it, as ``Patient:`` or ``[patient]``.
    """
    asked, asker = "", ""
    for line in _TURN.finditer(transcript):
        who, base = line["who"] or line["tag"] or "", line.start("said")
        for sentence in _SENTENCE.finditer(line["said"]):
            for start, end in _pieces(sentence.start(), sentence.end(), line["said"]):
                said = line["said"][start:end]
                yield Turn(asked if who != asker or not who else "", said, base + start, base + end)
        last = line["said"].rstrip()
        if last.endswith("?"):
            asked, asker = last.rsplit(". ", 1)[-1][-300:], who
        elif who != asker:
            asked = ""


def _pieces(start: int, end: int, text: str) -> Iterator[tuple[int, int]]:
    """Cut a stretch where it is longer than a specialist reads."""
    most = MOST_BYTES // 4  # characters have at most four bytes
    for at in range(start, end, most):
        yield at, min(at + most, end)


def statements(transcript: str, decide: Decide) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield section and statement in the order of the transcript, as answers come; "" for a sentence left out."""
    turns = list(turns_of(transcript))
    for at in range(0, len(turns), BATCH):
        part = turns[at : at + BATCH]
        for turn, answer in zip(part, decide(part), strict=True):
            is_kept = answer.is_kept and answer.section in SECTIONS
            statement = {"text": turn.said, "span": [turn.start, turn.end], "score": round(answer.score, 4)}
            if turn.asked:
                statement["asked"] = turn.asked
            yield (answer.section if is_kept else ""), statement


def note_of(stated: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Gather statements into the note: sections in a fixed order, each a list with text, span and score."""
    note: dict[str, Any] = {"version": 1, "sections": {name: [] for name in SECTIONS}, "omitted": 0}
    for section, statement in stated:
        if section:
            note["sections"][section].append(statement)
        else:
            note["omitted"] += 1
    return note


def check_note(note: Any, transcript: str) -> list[str]:
    """Return what is wrong with a note, whoever wrote it: its schema, and statements that are not in the transcript."""
    if not isinstance(note, dict) or not isinstance(note.get("sections"), dict):
        return ["note has no sections"]
    unknown = [name for name in note["sections"] if name not in SECTIONS]
    problems = [f"sections has {name!r}, expected {', '.join(SECTIONS)}" for name in unknown]
    for name in SECTIONS:
        statements = note["sections"].get(name)
        if not isinstance(statements, list):
            problems.append(f"sections.{name} is missing, expected a list")
            continue
        for i, one in enumerate(statements):
            problems += _ungrounded(one, transcript, f"sections.{name}[{i}]")
    return problems


def _ungrounded(statement: Any, transcript: str, where: str) -> list[str]:
    text, span = (statement.get("text"), statement.get("span")) if isinstance(statement, dict) else (None, None)
    if not isinstance(text, str) or not text.strip():
        return [f"{where}.text is {text!r}, expected words"]
    if not isinstance(span, list) or len(span) != 2 or not all(isinstance(n, int) and n >= 0 for n in span):
        return [f"{where}.span is {span!r}, expected two places in the transcript"]
    if transcript[span[0] : span[1]] != text:
        return [f"{where} is not what the transcript says at {span!r}"]
    return []


def answer_of(response: decide_pb2.DecideResponse) -> Answer:
    """Read a gateway's answer; a fallback keeps nothing, because nobody knows where it belongs."""
    told = {p.label: p.probability for p in response.probabilities if p.label != OMITTED}
    if response.fallback.used or not told:
        return Answer(False, OMITTED, 0.0)
    section = max(told, key=lambda label: told[label])
    return Answer(response.decision == "keep", section, told[section])


def request_of(turn: Turn) -> decide_pb2.DecideRequest:
    """Write the question for one turn."""
    request = decide_pb2.DecideRequest(specialist="clinical-note")
    request.input.fields["said"].text = turn.said
    if turn.asked:
        request.input.fields["asked"].text = turn.asked
    return request
