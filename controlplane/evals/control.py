"""The classical model to beat: TF-IDF with logistic regression for texts, boosted steps where there are numbers."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from controlplane.packs.example import Example
from controlplane.training.additive import fit
from protos.contract.task import TaskSpec

_WORDS = r"(?u)\w+|[^\w\s]"  # symbols count as words, so that a text of emoji alone has some


class Control(Protocol):
    """A fitted control."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score rendered texts, shape [texts, labels]."""
        ...


def fit_control(task: TaskSpec, training: Sequence[Example], labels: Sequence[str]) -> Control:
    """Fit the control that suits a task's fields; ``labels`` may be coarser than the task's own."""
    present = {example.label for example in training}
    if all(field.kind == "text" for field in task.fields) or len(present) < 2 or tuple(labels) != task.labels:
        return ControlModel(training, labels)
    return _AdditiveControl(task, training)


class _AdditiveControl:
    """What the additive trainer would make of the same cases."""

    def __init__(self, task: TaskSpec, training: Sequence[Example]) -> None:
        # No cases are left to calibrate on; the decisions are by the model as it is.
        fitted = fit(task, training, [], seed=0)
        self._model, self._head = fitted.model(task), fitted.head

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Score texts, shape [texts, labels]."""
        return self._head.probabilities(self._model.logits(texts))


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
