"""Texts changed in ways that should change no decision."""

import random
from collections.abc import Callable, Mapping

_SEED = 17
_EVERY = 6  # words between two typing errors


def _typos(text: str) -> str:
    """Swap two neighbouring letters inside every sixth word of four letters or more."""
    draw = random.Random(f"{_SEED}/{text}")  # noqa: S311 - noise, not secrets
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4]
    for i in long[:: max(1, min(_EVERY, len(long)))]:
        at = draw.randrange(1, len(words[i]) - 2)
        word = words[i]
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _spacing(text: str) -> str:
    return "  ".join(text.split(" ")) + " "


CHANGES: Mapping[str, Callable[[str], str]] = {
    "upper_case": str.upper,
    "lower_case": str.lower,
    "spacing": _spacing,
    "typos": _typos,
}
