"""ROUGE (Lin 2004): how much of a written text is in a reference and the other way round, by words and by order.

Words are runs of letters and digits in lower case, not stemmed, as in the reference figures for MTS-Dialog.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Rouge:
    """F1 of single words, of pairs of neighbours, and of the longest common subsequence; each 0 to 1."""

    rouge1: float
    rouge2: float
    rouge_l: float


def rouge(written: str, reference: str) -> Rouge:
    """Compare one text with its reference; 0 where either has no words."""
    ours, theirs = _WORD.findall(written.lower()), _WORD.findall(reference.lower())
    return Rouge(
        rouge1=_overlap(Counter(ours), Counter(theirs)),
        rouge2=_overlap(Counter(zip(ours, ours[1:], strict=False)), Counter(zip(theirs, theirs[1:], strict=False))),
        rouge_l=_f1(_longest_common(ours, theirs), len(ours), len(theirs)),
    )


def _overlap(ours: Counter[Any], theirs: Counter[Any]) -> float:
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in time len(a) * len(b) and memory len(b)."""
    before = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(row[j], before[j + 1]))
        before = row
    return before[-1]
