"""A label outside an engine's best few gets a bound, never a guess below what it may have."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.label_scores import from_best, from_logprobs, from_probabilities
from gateway.engines.ports import Broken


@given(st.lists(st.floats(-20, 20), min_size=4, max_size=40), st.integers(1, 40), st.data())
def test_labels_inside_the_best_few_are_exact_and_the_others_bounded(
    logits: list[float], count: int, data: st.DataObject
) -> None:
    row = np.array(logits)
    row = row - row.max() - np.log(np.exp(row - row.max()).sum())
    ids = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=2, max_size=4, unique=True))
    order = np.argsort(-row, kind="stable")[:count]
    best = {int(i): float(row[i]) for i in order}
    if not set(ids) & set(best):
        with pytest.raises(Broken, match="no label is among"):
            from_best(ids, best)
        return
    scores = from_best(ids, best)
    assert scores.is_bounded == (not set(ids) <= set(best))
    for label, value in zip(ids, scores.values, strict=True):
        assert value == best[label] if label in best else value >= row[label] - 1e-6
    assert scores.vocabulary_mass is not None
    assert scores.vocabulary_mass <= sum(np.exp(row[ids])) + 1e-9


@pytest.mark.parametrize("value", [math.nan, 0.5, math.inf])
def test_what_is_no_log_probability_is_no_answer(value: float) -> None:
    with pytest.raises(Broken):
        from_best([1], {1: value})
    with pytest.raises(Broken):
        from_logprobs([value])


@pytest.mark.parametrize("values", [[0.5, 0.6], [0.0, 0.0], [-0.1, 1.1], [math.nan, 1.0]])
def test_what_are_no_probabilities_is_no_answer(values: list[float]) -> None:
    with pytest.raises(Broken):
        from_probabilities(values)


def test_log_probabilities_of_the_vocabulary_keep_their_mass() -> None:
    scores = from_logprobs([math.log(0.2), math.log(0.1)])
    assert scores.vocabulary_mass == pytest.approx(0.3)
