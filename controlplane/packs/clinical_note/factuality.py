"""Does a note say what was said? Facts by words: numbers and doses, medicines, sides, negated findings, content words.

Numbers, doses, sides and medicines are critical: a wrong one may harm. What was said in other words is found by the
base encoder, where one is given, clause by clause; it does not tell five tablets from fifty, so words go on counting.

A cheap check for notes that a model wrote. How far it agrees with people is measured on MTS-Dialog's human scores
(``python -m controlplane.packs.clinical_note.factuality FILE``): it is a screen, not a judge.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.datasets.rows import read_rows

Embed = Callable[[list[str]], NDArray[Any]]  # texts to unit vectors, shape [texts, width]
_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[.;!?\n]")
_CLAUSE_END = re.compile(r"(?<=[.!?;])\s+|\n+|,\s+|\band\b")
_NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
}  # fmt: skip
_TENS = {word: int(n) for word, n in _NUMBERS.items() if len(n) == 2 and n[1] == "0" and n != "10"}
_UNITS = {
    "mg": "mg", "mgs": "mg", "milligram": "mg", "milligrams": "mg", "mcg": "mcg", "microgram": "mcg",
    "micrograms": "mcg", "gram": "g", "grams": "g", "ml": "ml", "cc": "ml", "milliliter": "ml", "milliliters": "ml",
    "kg": "kg", "kilograms": "kg", "lb": "lb", "lbs": "lb", "pound": "lb", "pounds": "lb", "percent": "%",
}  # fmt: skip
# By the stems that the United States Adopted Names council gives to kinds of substances, and well-known names without.
_MEDICINE = re.compile(
    r"[a-z]{2,}(?:pril|sartan|olol|statin|cillin|mycin|floxacin|cycline|conazole|prazole|tidine|gliptin|gliflozin|glutide|"
    r"triptan|setron|xaban|parin|dronate|zepam|zolam|oxetine|traline|pramine|thiazide|dipine|profen|sone|solone|terol)|"
    r"aspirin|tylenol|acetaminophen|advil|motrin|aleve|naproxen|insulin|metformin|lantus|warfarin|coumadin|plavix|"
    r"clopidogrel|lasix|furosemide|digoxin|lipitor|synthroid|levothyroxine|albuterol|advair|zoloft|prozac|lexapro|xanax|"
    r"ativan|gabapentin|neurontin|tramadol|vicodin|percocet|oxycodone|hydrocodone|morphine|codeine|nexium|prilosec|zantac|"
    r"benadryl|claritin|zyrtec|flonase|bactrim|keflex|cipro|zithromax|amoxicillin|penicillin|plaquenil|methotrexate|"
    r"glucophage|zestril|potassium|coreg|cymbalta"
)
SIDES = ("left", "right", "bilateral")
# A finding of nothing: it says at once what a list of denials says one by one.
_NOTHING = ("none", "negative", "unremarkable", "noncontributory")
NEGATIONS = ("no", "not", "denies", "denied", "never", "without", "nor", *_NOTHING)
_TURNS = ("but", "however", "although", "though", "except", "which", "who", "because")  # where a negation ends
_STOP = frozenset(
    """
    a an the and or but of to in on for with at by from as is was were are be been has have had do does did he she it
    his her they them their i you your we our my me this that these those patient doctor guest family um uh yeah yes
    okay ok so well just like really any some then than there here what when which who how about also can could would
    will should may might all very much more most into up out over if
    """.split()  # noqa: SIM905 - a list of quoted words is no easier to read
) | frozenset(NEGATIONS)
_WINDOW = 12  # words after a negation that it reaches within its sentence: lists of denials are long


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text states."""

    words: frozenset[str]
    critical: frozenset[str]  # numbers, doses and sides
    medicines: frozenset[str]  # by name; their stems are among the words
    negated: frozenset[str]
    found_nothing: bool


def facts_of(text: str) -> Facts:
    """Read a text's facts."""
    found, critical, medicines, negated = set(), set(), set(), set()
    reach, last, found_nothing = 0, "", False
    for word in _counted(_WORD.findall(text.lower())):
        if word in ".;!?\n" or word in _TURNS:
            reach = 0
        elif word in NEGATIONS:
            reach = _WINDOW
            found_nothing |= word in _NOTHING
        elif word[0].isdigit() or word in SIDES:
            critical.add(word)
        elif word in _UNITS and last[:1].isdigit():
            critical.add(last + _UNITS[word])
        elif word not in _STOP and len(word) > 2:
            if _MEDICINE.fullmatch(word):
                medicines.add(word)
            found.add(_stem(word))
            if reach:
                negated.add(_stem(word))
        reach, last = max(0, reach - 1), word
    return Facts(frozenset(found), frozenset(critical), frozenset(medicines), frozenset(negated), found_nothing)


def _counted(words: Sequence[str]) -> Iterator[str]:
    """Write numbers in digits, "twenty six" as one."""
    tens = 0
    for word, after in zip(words, [*words[1:], ""], strict=False):
        number = _NUMBERS.get(word, word)
        if word in _TENS and len(_NUMBERS.get(after, "")) == 1:
            tens = _TENS[word]
            continue
        yield str(tens + int(number)) if tens else number
        tens = 0


def critical_facts(note: str, source: str) -> dict[str, float]:
    """Compare numbers, sides and medicines of a note with its source's.

    Returns:
        ``precision`` and ``recall``, each 1 where there is nothing that could be wrong.
    """
    ours, theirs = (facts.critical | facts.medicines for facts in (facts_of(note), facts_of(source)))
    common = len(ours & theirs)
    return {
        "precision": common / len(ours) if ours else 1.0,
        "recall": common / len(theirs) if theirs else 1.0,
    }


def unsaid(statement: str, said: Facts) -> list[str]:
    """Return the numbers, doses, sides and medicines of a statement that nobody said."""
    ours = facts_of(statement)
    return sorted((ours.critical | ours.medicines) - said.critical - said.medicines)


def _stem(word: str) -> str:
    for end in ("ations", "ation", "ings", "ing", "ies", "ed", "es", "s"):
        if word.endswith(end) and len(word) - len(end) >= 4:
            return word[: -len(end)]
    return word


def factuality(note: str, source: str, also: str = "", embed: Embed | None = None) -> dict[str, float]:
    """Compare a note with what it should say: its reference, or the transcript.

    Args:
        also: What else was said, of which nothing is missed: the transcript beside a reference.
        embed: Finds what was said in other words.
    Returns:
        ``precision``: share of the note's facts that the source has; ``recall``: how much of the source's clauses the
        note says, on average; their ``f1``. Numbers, doses and sides count three times, and a finding that only one of
        the two negates counts as wrong.
    """
    precision = _share(facts_of(note), facts_of(f"{source}\n{also}"))
    recall = _said(source, note, embed)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall),
    }


def _share(of: Facts, against: Facts) -> float:
    """Return the share of facts that the other has; 1 where there is none that it could lack."""
    flipped = (of.negated ^ against.negated) & of.words & against.words
    total = len(of.words) + 3 * len(of.critical)
    kept = len((of.words & against.words) - flipped) + 3 * len(of.critical & against.critical)
    if against.found_nothing:
        kept += len(of.negated - against.words)
    return kept / total if total else 1.0


def _said(source: str, note: str, embed: Embed | None) -> float:
    """Return how much of a source's clauses a note says: each by its words, and by the clause most like it."""
    whole, ours = facts_of(source), facts_of(note)
    clauses = _clauses(source)
    # A negation reaches over clauses: it is read in the whole.
    facts = [facts_of(clause) for clause in clauses]
    shares = [_share(replace(one, negated=whole.negated & one.words), ours) for one in facts]
    if embed is None:
        return float(np.mean(shares))
    alike = (embed(clauses) @ embed(_clauses(note)).T).max(1)
    return float(np.mean((np.array(shares) + np.maximum(alike, 0.0)) / 2))


def _clauses(text: str) -> list[str]:
    return [part for part in _CLAUSE_END.split(text) if any(map(str.isalnum, part))] or [text]


def agreement(path: Path, embed: Embed | None = None) -> Mapping[str, float]:
    """Return Spearman's correlation between our figures and people's, over the rows of the human scores."""
    from scipy.stats import spearmanr

    names = ("precision", "recall", "f1")
    rows = [row for _, row in read_rows(path)]
    # What was said and is not in the reference is no invention.
    ours = [factuality(row["candidate"], row["reference"], row["dialogue"], embed) for row in rows]
    people = [[float(row[f"factual_{name}"]) for row in rows] for name in names]
    return {
        name: round(float(spearmanr([found[name] for found in ours], theirs).statistic), 4)
        for name, theirs in zip(names, people, strict=True)
    }


def main() -> None:
    """Print the agreement by words alone, and with the base encoder."""
    from controlplane.training.embed import Encoder

    for way, embed in (("words", None), ("words and encoder", Encoder().embed)):
        sys.stdout.write(json.dumps({"way": way, **agreement(Path(sys.argv[1]), embed)}) + "\n")


if __name__ == "__main__":
    main()
