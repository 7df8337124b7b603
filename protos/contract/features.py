"""What additive engines read of a rendered text: named fields, and the terms of text fields.

Training writes models over these features and the worker answers from them, so both sides must
cut text alike.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from protos.contract.fields import FieldInvalid

_WORD = re.compile(r"\w+|[^\w\s]")
CHARACTERS_PER_TOKEN = 4
# Cyrillic and Greek letters that are used to write Latin words past a filter, and what is not seen at all. A subset of
# Unicode's confusables (UTS 39): those of one Latin letter each.
LOOKALIKES = dict(zip("авеікмнорстухѕјԁԛԝοαερνιτ", "abeikmhopctyxsjdqwoaepvit", strict=True))  # noqa: RUF001
INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_FOLD = str.maketrans(LOOKALIKES | dict.fromkeys(INVISIBLE, ""))
NAME_SIZES = (1, 2, 3, 4, 5)
SPELLING_SIZES = (2, 3, 4)


def check_sum(where: str, *parts: NDArray[np.float64]) -> None:
    """Refuse a model that could have no finite answer; raises FieldInvalid."""
    with np.errstate(over="ignore"):
        most = sum(float(np.abs(part).sum()) for part in parts)
    if not most <= float(np.finfo(np.float32).max):
        raise FieldInvalid(f"{where} has numbers that add up to more than single precision holds, expected logits")


def read_fields(text: str, names: Sequence[str]) -> dict[str, str]:
    """Take a text of lines ``name: value`` apart; a name's first line counts.

    What follows a line without a known name belongs to the value before it. A text without any known
    name is the value of the first one: the template of such a task is the bare field.
    """
    pattern = re.compile("^(" + "|".join(map(re.escape, names)) + "): ?", re.MULTILINE)
    marks = list(pattern.finditer(text))
    if not marks or marks[0].start() != 0:
        return {names[0]: text}
    ends = [mark.start() - 1 for mark in marks[1:]] + [len(text)]
    found: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        found.setdefault(mark[1], text[mark.end() : end])
    return found


def read_number(text: str) -> float:
    """Read a rendered number or flag; NaN for anything else, an empty value before all."""
    if text in ("True", "False"):
        return float(text == "True")
    try:
        return float(text)
    except ValueError:
        return math.nan


def folded(text: str) -> str:
    """Return lower case, with letters that only look like others, and invisible ones, as what they look like."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).lower().translate(_FOLD)


def _words(text: str, most: int) -> list[str]:
    return _WORD.findall(folded(text[: 16 * most]))[:most]


def words(text: str, most: int) -> list[str]:
    """Return words, symbols and pairs of neighbours, lower case, of at most ``most`` words."""
    found = _words(text, most)
    return found + [f"{a} {b}" for a, b in zip(found, found[1:], strict=False)]


def spelling(text: str, most: int) -> list[str]:
    """Return what ``words`` does, and runs of two to four characters of each word and its edges: for odd spellings."""
    found = words(text, most)
    for word in _words(text, most):
        # Runs are marked: "no" inside a word is not the word "no".
        padded = f"<{word}>"
        found += ["~" + padded[i : i + n] for n in SPELLING_SIZES for i in range(len(padded) - n + 1)]
    return found


def characters(text: str, most: int) -> list[str]:
    """Return runs of one to five characters and the edges, lower case: for names such as domains and addresses.

    Look-alikes stay what they are: in an address they are a sign.
    """
    padded = f" {text[: CHARACTERS_PER_TOKEN * most].lower().strip()} "
    return [padded[i : i + n] for n in NAME_SIZES for i in range(len(padded) - n + 1)] if padded.strip() else []


def whole(text: str, most: int) -> list[str]:
    """Return the value itself: for codes and categories."""
    return [text.strip().lower()[: CHARACTERS_PER_TOKEN * most]] if text.strip() else []


ANALYSERS: Mapping[str, Callable[[str, int], list[str]]] = MappingProxyType(
    {"words": words, "spelling": spelling, "characters": characters, "whole": whole}
)
