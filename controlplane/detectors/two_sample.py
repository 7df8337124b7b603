"""Can a classifier tell live texts from reference texts? If it can, the texts have changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from controlplane.detectors import TooFewSamples

FOLDS = 4
MINIMUM = 2 * FOLDS  # texts a side: two in every fold, so that each fold has a ranking to score
LARGEST = 400  # texts a side, characters a text and features: together they bound the cost
LONGEST = 1_000
FEATURES = 4_000
WORDS = 10
WORD_OR_SYMBOL = r"(?u)\w+|[^\w\s]"  # a text of emoji has features too


@dataclass(frozen=True, slots=True)
class TextShift:
    """How well live texts can be told apart, and by which words.

    Attributes:
        auc: Cross-validated area under the ROC curve; near 0.5 when nothing sets the texts apart, 1 when all does.
        words: Words that speak most for the live window, strongest first.
    """

    auc: float
    words: tuple[str, ...]


def classifier_two_sample(reference: Sequence[str], live: Sequence[str], seed: int) -> TextShift:
    """Train a classifier to tell two windows of texts apart, and score it on texts it has not seen.

    Args:
        seed: Draws the subsample and the folds; the same seed gives the same answer.
    Raises:
        TooFewSamples: A window holds fewer than ``MINIMUM`` texts.
    Source: classifier two-sample test (Lopez-Paz and Oquab, 2017).
    """
    if min(len(reference), len(live)) < MINIMUM:
        raise TooFewSamples(f"{len(reference)} reference and {len(live)} live texts, expected at least {MINIMUM} each")
    rng = np.random.default_rng(seed)
    texts = _subsample(reference, rng) + _subsample(live, rng)
    is_live = np.zeros(len(texts), dtype=np.int64)
    is_live[min(len(reference), LARGEST) :] = 1
    # The vocabulary sees every text but no label, so that it cannot leak the answer into a fold.
    vectors = TfidfVectorizer(max_features=FEATURES, min_df=2, sublinear_tf=True, token_pattern=WORD_OR_SYMBOL)
    try:
        features = vectors.fit_transform(texts)
    except ValueError:  # No token occurs in two texts: there is nothing to tell them apart by.
        return TextShift(0.5, ())
    scores = []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, is_live):
        model = _classifier().fit(features[train], is_live[train])
        scores.append(roc_auc_score(is_live[test], model.decision_function(features[test])))
    weights = _classifier().fit(features, is_live).coef_[0]
    names = vectors.get_feature_names_out()
    strongest = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0 and names[i].isalnum()]
    return TextShift(float(np.mean(scores)), tuple(str(names[i]) for i in strongest[:WORDS]))


def _classifier() -> LogisticRegression:
    # Balanced, because a small live window against a large reference says nothing about the texts.
    return LogisticRegression(class_weight="balanced", max_iter=200)


def _subsample(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    chosen = rng.choice(len(texts), size=min(len(texts), LARGEST), replace=False)
    return [texts[i][:LONGEST] for i in chosen]
