"""Label flips: a batch whose labels contradict what all other batches teach, found before anything is trained on it."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.feature_extraction.text import CountVectorizer

from controlplane.packs.example import Example

_WORDS = r"(?u)\w+|[^\w\s]"
LEAST_BATCH, LEAST_OTHERS = 30, 100  # rows below which nothing is said of a batch
MOST_BELIEF = 0.3  # of a label, from which down the others contradict it
MOST_OWN_BELIEF = 0.6  # of a label, from which down the batch's own other rows do not speak for it
FOLDS = 5  # of a batch, each judged by the rest of it
SIGNIFICANCE = 0.01  # chance of setting an honest batch aside, shared out among the batches
LEAST_EXCESS = 0.05  # of a batch's rows beyond what is usual: less does not pay for setting a day aside


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One batch that does not fit.

    Attributes:
        contradicted: Share of its labels that contradict the other batches and its own other rows; ``usual`` is the
            median of that share over the other batches.
    """

    batch: str
    rows: int
    contradicted: float
    usual: float
    p_value: float

    @property
    def text(self) -> str:
        """The suspicion, for people."""
        return (
            f"{self.contradicted:.0%} of {self.rows} labels of {self.batch} contradict the rest, "
            f"where {self.usual:.0%} is usual (p = {self.p_value:.1g})"
        )


def suspicious(examples: Sequence[Example], batches: Sequence[Hashable], labels: Sequence[str]) -> list[Suspicion]:
    """Return the batches that look poisoned, the worst first.

    Every batch is judged by a naive Bayes model of the others, so a poisoned one cannot vouch for itself. Where what
    texts mean has really changed, the batch's own other rows agree with its labels; flips agree with nothing. A label
    is contradicted when both the other batches and the batch's own other rows speak against it. A fifth of 400 labels
    flipped is found; of 150 it often is not (tests/controlplane/datasets/test_poison.py).

    Args:
        batches: What each example came in with, such as its day.
        labels: The task's labels.
    """
    of: dict[Hashable, list[int]] = defaultdict(list)
    for i, batch in enumerate(batches):
        of[batch].append(i)
    large = {b: inside for b, inside in of.items() if len(inside) >= LEAST_BATCH <= len(examples) - LEAST_OTHERS}
    if len(large) < 2:
        return []
    texts = [example.text for example in examples]
    words: Any = CountVectorizer(token_pattern=_WORDS, binary=True).fit_transform(texts)
    truth = np.array([labels.index(example.label) for example in examples])
    of_label = np.eye(len(labels))[truth]
    whole = _counts(words, of_label)
    found: dict[Hashable, tuple[int, int]] = {}
    for batch, inside in large.items():
        mine, given = words[inside], of_label[inside]
        others = whole - _counts(mine, given)
        against_others = _belief(mine, others, of_label.sum(0) - given.sum(0), truth[inside]) < MOST_BELIEF
        against_own = np.zeros(len(inside), dtype=bool)
        for fold in range(FOLDS):
            out = np.arange(len(inside)) % FOLDS == fold
            own = _counts(mine[~out], given[~out])
            against_own[out] = _belief(mine[out], own, given[~out].sum(0), truth[inside][out]) < MOST_OWN_BELIEF
        found[batch] = (int((against_others & against_own).sum()), len(inside))
    suspected = []
    for batch, (hits, rows) in found.items():
        # The median of the others, so that a second poisoned batch does not hide the first.
        rest = [h / n for other, (h, n) in found.items() if other != batch]
        if not rest:
            continue
        usual = float(np.median(rest))
        p = float(binomtest(hits, rows, max(usual, 1 / (2 * rows)), alternative="greater").pvalue)
        if hits / rows - usual >= LEAST_EXCESS and p < SIGNIFICANCE / len(found):
            suspected.append(Suspicion(str(batch), rows, hits / rows, usual, p))
    return sorted(suspected, key=lambda one: (-one.contradicted, one.batch))


def _counts(words: Any, of_label: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count rows of each label that hold a word, shape [labels, words]."""
    return np.asarray((words.T @ of_label).T)


def _belief(
    words: Any, counts: NDArray[np.float64], rows: NDArray[np.float64], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the probability that naive Bayes gives each row's label."""
    scores = np.asarray(words @ np.log((counts + 1) / (rows[:, None] + 2)).T) + np.log(rows + 1)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    found: NDArray[np.float64] = (powers / powers.sum(1, keepdims=True))[np.arange(len(truth)), truth]
    return found
