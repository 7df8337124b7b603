"""The classical model to beat: TF-IDF of words and word pairs with logistic regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from controlplane.packs.example import Example

_WORDS = r"(?u)\w+|[^\w\s]"  # symbols count as words, so that a text of emoji alone has some


class ControlModel:
    """Fitted on the candidate's training set; answers with probabilities in the task's label order."""

    def __init__(self, training: Sequence[Example], labels: Sequence[str]) -> None:
        present = sorted({labels.index(example.label) for example in training})
        self._columns = present
        self._classes = len(labels)
        self._model: Any = None
        if len(present) > 1:
            self._model = make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORDS),
                LogisticRegression(class_weight="balanced", max_iter=1000),
            )
            self._model.fit([example.text for example in training], [labels.index(e.label) for e in training])

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score texts, shape [texts, labels]."""
        found = np.zeros((len(texts), self._classes))
        found[:, self._columns] = 1.0 if self._model is None else self._model.predict_proba(list(texts))
        return found
