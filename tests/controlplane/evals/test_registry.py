from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from controlplane.evals import registry
from controlplane.evals.bootstrap import resample_weights, resampled
from controlplane.evals.registry import Answers, Metric, MetricUnknown
from tests.tasks import TASK


def answers(seed: int, n: int = 120, *, rounded: bool = True) -> Answers:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    unsafe = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0.01, 0.99)
    unsafe = unsafe.round(1).clip(0.01, 0.99) if rounded else unsafe  # equal scores are the hard part
    given = Answers.of(TASK, labels, np.stack([1 - unsafe, unsafe], 1), (unsafe > 0.5).astype(np.int64))
    return Answers(**{**{f: getattr(given, f) for f in given.__slots__}, "case_weights": rng.uniform(0.5, 3, n)})


@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_agree_with_scikit_learn_under_case_weights(seed: int) -> None:
    given = answers(seed)
    truth, score, weight = given.labels, given.probabilities[:, 1], given.case_weights
    expected = {
        "auc": roc_auc_score(truth, score, sample_weight=weight),
        "average_precision": average_precision_score(truth, score, sample_weight=weight),
        "log_loss": log_loss(truth, given.probabilities, sample_weight=weight),
        "f1[unsafe]": f1_score(truth, given.predicted, sample_weight=weight),
    }
    assert {name: registry.find(name).value(given)[0] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auc", "average_precision", "recall_at_fpr[0.1]", "f1[safe]", "mean_cost", "ece"])
def test_a_drawn_weight_means_the_same_as_repeating_the_case(name: str) -> None:
    given = answers(1, 60)
    drawn = resample_weights(60, 3, 4)
    for row, found in zip(drawn.astype(int), registry.find(name).value(given, drawn), strict=True):
        again = given.take(np.repeat(np.arange(60), row))
        assert found == pytest.approx(registry.find(name).value(again)[0])


def test_recall_at_a_false_positive_rate_flags_no_more_than_the_rate() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    labels = np.array([1, 0, 1, 0, 1, 0])
    given = Answers.of(TASK, labels, np.stack([1 - scores, scores], 1), labels)
    found = [registry.find(f"recall_at_fpr[{rate}]").value(given)[0] for rate in (0.01, 0.34, 0.67)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_metric_without_a_value_says_so_instead_of_a_number() -> None:
    given = answers(2).take(np.flatnonzero(answers(2).labels == 0))
    assert np.isnan(registry.find("auc").value(given)[0])
    assert np.isnan(registry.find("recall[unsafe]").value(given)[0])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("charm", "expected one of .*accuracy"),
        ("f1", r"expected f1\[LABEL\]"),
        ("accuracy[safe]", "expected accuracy"),
        ("recall_at_fpr[2]", "a rate above 0"),
    ],
)
def test_a_metric_that_is_none_is_refused_with_what_there_is(name: str, complaint: str) -> None:
    with pytest.raises(MetricUnknown, match=complaint):
        registry.find(name)


def test_a_pack_can_add_a_metric_that_looks_at_its_own_columns_but_not_replace_one() -> None:
    def flagged_value(given: Answers, weights: np.ndarray, _: str) -> np.ndarray:
        amount = np.array(given.columns["amount"], dtype=np.float64)
        hit = (given.labels == given.score_index) & (given.predicted == given.score_index)
        return weights @ (amount * hit) / (weights @ (amount * (given.labels == given.score_index)))

    metric = Metric("test_value_recall", True, flagged_value, "share of the amount found")
    registry.register(metric)
    try:
        probabilities = np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1]])
        labels = np.array([1, 1, 0])
        given = Answers((*TASK.labels,), labels, probabilities, 1, None, None, np.ones(3), {"amount": [30, 10, 99]})
        assert registry.find("test_value_recall").value(given)[0] == 0.75
        with pytest.raises(MetricUnknown, match="a new name"):
            registry.register(metric)
    finally:
        registry._METRICS.pop("test_value_recall")


def test_drawing_in_pieces_is_drawing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resample_weights(30, 50, 3).T
    monkeypatch.setattr("controlplane.evals.bootstrap._MOST_NUMBERS", 200)
    assert (resampled(30, 50, 3, lambda weights: weights.T) == whole).all()


def test_where_labels_are_decided_on_a_case_has_the_label_that_was_decided() -> None:
    """Costs may well decide for a rare label that is not the likeliest: that is what a caller gets."""
    probabilities, decided = np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([1, 0])
    said = Answers.of(replace(TASK, decisions=TASK.labels), decided, probabilities, decided)
    assert said.predicted.tolist() == said.take(np.array([0, 1])).predicted.tolist() == [1, 0]
    assert said.without_decisions().predicted.tolist() == [0, 0]
    assert Answers.of(TASK, decided, probabilities, decided).predicted.tolist() == [0, 0], (
        "allow and block are no labels"
    )
