"""Where a statement stands in the text that it is about, word by word, whatever its case and spacing.

The gateway flags what a generated answer says beyond its input, and the control plane holds notes to the same: what
one takes for said, the other has to.
"""

import re
from bisect import bisect_right
from itertools import accumulate
from unicodedata import combining

_WORD = re.compile(r"\S+")


class Source:
    """A text in which statements are looked for, in turn: one that is made twice stands in two places."""

    def __init__(self, text: str) -> None:
        self._spans = [word.span() for word in _WORD.finditer(text)]
        words = _folded(text).split()
        self._folded = " ".join(words)
        self._starts = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
        self._after: dict[str, int] = {}  # where to look for a statement next; -1: it is nowhere

    def place(self, statement: str) -> tuple[int, int] | None:
        """Return where a statement starts and where it has ended in the text; None where it is not said.

        A stretch counts only where it cuts no word: "no" is not stated by "nothing".
        """
        wanted = " ".join(_folded(statement).split())
        begin = self._after.get(wanted, 0)
        if not wanted or begin < 0:
            return None
        at = self._find(wanted, begin)
        if at < 0 and begin:
            at = self._find(wanted, 0)
        if at < 0:
            self._after[wanted] = -1
            return None
        self._after[wanted] = at + len(wanted)
        return self._original(at), self._original(at + len(wanted) - 1) + 1

    def _find(self, wanted: str, begin: int) -> int:
        at = self._folded.find(wanted, begin)
        while at >= 0 and not self._is_whole(at, at + len(wanted)):
            at = self._folded.find(wanted, at + 1)
        return at

    def _is_whole(self, start: int, end: int) -> bool:
        folded = self._folded
        is_cut_before = start > 0 and _is_of_word(folded[start - 1]) and _is_of_word(folded[start])
        is_cut_after = end < len(folded) and _is_of_word(folded[end]) and _is_of_word(folded[end - 1])
        return not (is_cut_before or is_cut_after)

    def _original(self, at: int) -> int:
        """Return the text's place of a folded character."""
        i = bisect_right(self._starts, at) - 1
        return self._spans[i][0] + at - self._starts[i]


def _folded(text: str) -> str:
    """Return lower case of the same length: a letter whose lower case has two characters stays as it is."""
    found = text.lower()
    if len(found) == len(text):
        return found
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)


def _is_of_word(character: str) -> bool:
    return character.isalnum() or bool(combining(character))  # an accent of its own belongs to the letter before it
