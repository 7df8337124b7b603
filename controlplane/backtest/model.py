"""A plain classifier that stands in for a served engine, so that a replay has scores to watch."""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from controlplane.backtest.stream import Stream
from controlplane.detectors.resampling import Numbers
from controlplane.loop.frame import Frame


def score(stream: Stream, vectors: Any, train: int) -> Frame:
    """Fit on the first ``train`` rows and score the rows after them.

    Args:
        vectors: Embeddings of the stream's texts, shape [rows, d], or None.
    Returns:
        The rows after the first ``train``. With two labels the score is the probability of the second in
        alphabetical order; with more, that of the answer given.
    """
    features = _features(stream, vectors, train)
    labels = stream.labels
    classes = np.unique(labels[:train])
    if len(classes) < 2:
        probabilities = np.ones((len(stream) - train, 1))
    else:
        model = LogisticRegression(C=0.3, max_iter=200).fit(features[:train], labels[:train])
        probabilities = model.predict_proba(features[train:])
    answer = classes[probabilities.argmax(axis=1)]
    confidence = probabilities.max(axis=1)
    correct = (answer == labels[train:]).astype(np.float64)
    is_binary = len(np.unique(labels)) == 2 and len(classes) == 2
    return Frame(
        numbers={name: column[train:] for name, column in stream.numbers.items()},
        categories={name: column[train:] for name, column in stream.categories.items()},
        vectors=None if vectors is None else vectors[train:],
        score=probabilities[:, 1] if is_binary else confidence,
        decision=answer,
        confidence=confidence,
        hit=(labels[train:] == classes[1]).astype(np.float64) if is_binary else correct,
        correct=correct,
    )


def _features(stream: Stream, vectors: Any, train: int) -> Numbers:
    parts: list[Numbers] = []
    if stream.numbers:
        table = np.stack(list(stream.numbers.values()), axis=1)
        gaps = np.isneginf(table)
        table = np.where(gaps, 0.0, table)
        # Amounts of money and counts span decades: signed logarithms keep a few rows from deciding everything.
        scaled = StandardScaler().fit(np.arcsinh(table[:train])).transform(np.arcsinh(table))
        parts.append(np.clip(scaled, -5, 5))
    for column in stream.categories.values():
        known = np.unique(column[:train])
        parts.append((column[:, None] == known[None, :]).astype(np.float64))
    if vectors is not None:
        parts.append(np.asarray(vectors, dtype=np.float64) * 4)
    return np.concatenate(parts, axis=1)
