"""Notes that a generative engine writes, under the same contract: the same sections, and every statement in its place.

Decoding is constrained to the schema, so that the note can always be read. By default a statement has to be one of the
transcript's own sentences, which the constraint enforces token by token. ``is_free`` lets the engine use its own words:
each statement is then looked for in the transcript, and what is not there is flagged.
"""

import json
from collections.abc import Sequence
from typing import Any

from controlplane.packs.clinical_note.factuality import Facts, facts_of, unsaid
from controlplane.packs.clinical_note.note import SECTIONS, Turn
from protos.contract.grounding import Source

MOST_STATEMENTS = 24  # of a section
MOST_CHARACTERS = 300  # of a statement in the engine's own words


class NoteMalformed(ValueError):
    """A written note does not keep the schema: it was cut short, or nobody held the engine to it."""


def schema_of(turns: Sequence[Turn], *, is_free: bool = False, most: int = MOST_STATEMENTS) -> dict[str, Any]:
    """Return the JSON schema of a note of these sentences."""
    said: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS}
    if not is_free:
        said = {"enum": list(dict.fromkeys(turn.said for turn in turns))}
    section = {"type": "array", "items": said, "maxItems": most if turns else 0}
    return {
        "type": "object",
        "properties": dict.fromkeys(SECTIONS, section),
        "required": list(SECTIONS),
        "additionalProperties": False,
    }


def read_note(written: str, transcript: str) -> dict[str, Any]:
    """Read what an engine wrote and put every statement in its place.

    Returns:
        The note. A statement that the transcript does not have word by word, whatever its case and spacing, has no
        span and is ``ungrounded``, with the numbers, sides and medicines in it that nobody said as ``unsaid``;
        ``ungrounded`` of the note counts them.
    Raises:
        NoteMalformed: It is not an object of the sections, each a list of texts.
    """
    try:
        given = json.loads(written)
    except ValueError as error:
        raise NoteMalformed(f"note is not JSON: {error}") from error
    if not isinstance(given, dict) or sorted(given) != sorted(SECTIONS):
        raise NoteMalformed(f"note has {given!r:.80}, expected the sections {', '.join(SECTIONS)}")
    note: dict[str, Any] = {"version": 1, "sections": {}, "ungrounded": 0}
    source, said = Source(transcript), facts_of(transcript)
    for name in SECTIONS:
        if not isinstance(given[name], list) or not all(isinstance(text, str) for text in given[name]):
            raise NoteMalformed(f"sections.{name} is {given[name]!r:.80}, expected a list of texts")
        note["sections"][name] = [_placed(text, source, transcript, said) for text in given[name]]
        note["ungrounded"] += sum("ungrounded" in statement for statement in note["sections"][name])
    return note


def _placed(text: str, source: Source, transcript: str, said: Facts) -> dict[str, Any]:
    place = source.place(text)
    if place is None:
        return {"text": text, "ungrounded": True, "unsaid": unsaid(text, said)}
    # The transcript's own words, not the engine's spelling of them.
    return {"text": transcript[slice(*place)], "span": list(place)}
