"""Are a batch's labels believable? Flips that nobody could learn are found before anything is trained on them.

Drift brings texts whose labels are new but can be learned; labels flipped at random cannot. So a classifier is
fitted on a batch and all others together, and asked about rows it has not seen: what it gets wrong more often than
among the other rows, nobody could learn.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.packs.example import Example

_WORDS = r"(?u)\w+|[^\w\s]"
COLUMNS = 256  # that words and pairs of them are hashed into
LEAST = 50  # rows a side: of fewer nothing is said
FOLDS = 5
CHANCE = 1e-3  # of flagging a batch that is as learnable as the others
MOST_USUAL = 0.5  # wrong labels elsewhere from which up words tell too little for flips to be told from new topics
MARGIN = 0.05  # share of wrong labels below which a batch is not worth holding back


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One batch that does not fit: the share of its labels that cannot be learned, and what is usual elsewhere."""

    batch: str
    rows: int
    unlearnable: float
    usual: float

    @property
    def text(self) -> str:
        """The suspicion, for people."""
        return (
            f"{self.unlearnable:.0%} of {self.rows} labels of {self.batch} cannot be learned from the others, "
            f"where {self.usual:.0%} is usual"
        )


def suspicious(examples: Sequence[Example], batches: Sequence[Hashable]) -> list[Suspicion]:
    """Return the batches that look poisoned, the worst first; those found vouch for no others.

    Args:
        batches: What each example came in with, such as its day.
    """
    of: dict[Hashable, list[int]] = defaultdict(list)
    for i, batch in enumerate(batches):
        of[batch].append(i)
    left = {str(batch): inside for batch, inside in of.items() if len(inside) >= LEAST}
    if not left or len(examples) < 2 * LEAST:
        return []
    wrong = unlearned([e.text for e in examples], [e.label for e in examples], batches)
    is_trusted = np.ones(len(examples), dtype=bool)
    found: list[Suspicion] = []
    while left:
        worst = max(left, key=lambda batch: float(wrong[left[batch]].mean()))
        inside = left.pop(worst)
        others = is_trusted.copy()
        others[inside] = False
        share, usual = float(wrong[inside].mean()), float(wrong[others].mean()) if others.any() else math.nan
        if others.sum() < LEAST or not stands_out(share, len(inside), usual, int(others.sum())):
            break
        is_trusted[inside] = False
        found.append(Suspicion(worst, len(inside), share, usual))
    return found


def unlearned(texts: Sequence[str], labels: Sequence[str], batches: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Say of each label whether a classifier of other rows gets it wrong, shape [rows].

    Args:
        batches: What each row came in with; folds hold the same share of each.
    """
    from sklearn.feature_extraction.text import HashingVectorizer  # two seconds to import, and not needed at start
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    # Words are enough to tell what can be learned, and cost a hundredth of embeddings.
    words: Any = HashingVectorizer(n_features=COLUMNS, ngram_range=(1, 2), token_pattern=_WORDS)
    vectors = words.transform(texts).toarray()
    truth = np.array(labels)
    wrong = np.zeros(len(truth), dtype=bool)
    # Batches too small for every fold are left to chance, and so are classes.
    sizes: dict[Hashable, int] = defaultdict(int)
    for batch in batches:
        sizes[batch] += 1
    strata = [str(batch) if sizes[batch] >= FOLDS else "" for batch in batches]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(np.zeros(len(truth)), strata):
        if len(set(truth[train])) < 2:
            continue
        model = LogisticRegression(C=10, max_iter=200).fit(vectors[train], truth[train])
        wrong[test] = model.predict(vectors[test]) != truth[test]
    return wrong


def stands_out(found: float, rows: int, expected: float, trusted: int) -> bool:
    """Say whether a batch is less learnable than chance and a small share of slips allow.

    Source: two-proportion z-test, one-sided.
    """
    if expected > MOST_USUAL:
        return False
    pooled = (found * rows + expected * trusted) / (rows + trusted)
    error = math.sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / rows + 1 / trusted))
    return found - expected > MARGIN and math.erfc((found - expected) / error / math.sqrt(2)) / 2 < CHANCE
