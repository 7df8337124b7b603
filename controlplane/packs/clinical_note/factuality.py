"""Does a note say what was said? Facts by words: numbers, medicines, sides, negated findings, and other content words.

Numbers, sides and medicines are critical: a wrong one may harm.

A cheap check for notes that a model wrote. How far it agrees with people is measured on MTS-Dialog's human scores
(``python -m controlplane.packs.clinical_note.factuality FILE``): it is a screen, not a judge.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.datasets.rows import read_rows

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
_NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
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
NEGATIONS = ("no", "not", "denies", "denied", "never", "without", "none", "negative", "nor")
_STOP = frozenset(
    """
    a an the and or but of to in on for with at by from as is was were are be been has have had do does did he she it
    his her they them their i you your we our my me this that these those patient doctor guest family um uh yeah yes
    okay ok so well just like really any some then than there here what when which who how about also can could would
    will should may might all very much more most into up out over if
    """.split()  # noqa: SIM905 - a list of quoted words is no easier to read
) | frozenset(NEGATIONS)
_WINDOW = 4  # words after a negation that it reaches


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text states."""

    words: frozenset[str]
    critical: frozenset[str]  # numbers and sides
    medicines: frozenset[str]  # by name; their stems are among the words
    negated: frozenset[str]


def facts_of(text: str) -> Facts:
    """Read a text's facts."""
    found, critical, medicines, negated = set(), set(), set(), set()
    reach = 0
    for raw in _WORD.findall(text.lower()):
        if raw in NEGATIONS:
            reach = _WINDOW
            continue
        word = _NUMBERS.get(raw, raw)
        if _MEDICINE.fullmatch(word):
            medicines.add(word)
        if word[0].isdigit() or word in SIDES:
            critical.add(word)
        elif word not in _STOP and len(word) > 2:
            stem = _stem(word)
            found.add(stem)
            if reach:
                negated.add(stem)
        reach = max(0, reach - 1)
    return Facts(frozenset(found), frozenset(critical), frozenset(medicines), frozenset(negated))


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


def _stem(word: str) -> str:
    for end in ("ations", "ation", "ings", "ing", "ies", "ed", "es", "s"):
        if word.endswith(end) and len(word) - len(end) >= 4:
            return word[: -len(end)]
    return word


def factuality(note: str, source: str) -> dict[str, float]:
    """Compare a note with what it should say: its reference, or the transcript.

    Returns:
        ``precision``: share of the note's facts that the source has; ``recall``: the other way round; their ``f1``.
        Numbers and sides count three times, and a finding that only one of the two negates counts as wrong.
    """
    ours, theirs = facts_of(note), facts_of(source)
    precision, recall = _share(ours, theirs), _share(theirs, ours)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall),
    }


def _share(of: Facts, against: Facts) -> float:
    flipped = (of.negated ^ against.negated) & of.words & against.words
    total = len(of.words) + 3 * len(of.critical)
    kept = len((of.words & against.words) - flipped) + 3 * len(of.critical & against.critical)
    return kept / total if total else 0.0


def agreement(path: Path) -> Mapping[str, float]:
    """Return Spearman's correlation between our figures and people's, over the rows of the human scores."""
    from scipy.stats import spearmanr

    ours: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    people: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    for _, row in read_rows(path):
        found = factuality(row["candidate"], row["reference"])
        # What was said and is not in the reference is no invention.
        found["precision"] = factuality(row["candidate"], f"{row['reference']} {row['dialogue']}")["precision"]
        for name in ours:
            ours[name].append(found[name])
            people[name].append(float(row[f"factual_{name}"]))
    return {name: round(float(spearmanr(ours[name], people[name]).statistic), 4) for name in ours}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(agreement(Path(sys.argv[1]))) + "\n")
