import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from controlplane.evals import metrics
from controlplane.evals.bootstrap import interval, resample_weights


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, guess = rng.integers(0, 4, 80), rng.integers(0, 4, 80)
    assert metrics.accuracy(labels, guess)[0] == pytest.approx(accuracy_score(labels, guess))
    for average, found in (
        ("macro", metrics.macro_f1(labels, guess, 4)),
        ("weighted", metrics.weighted_f1(labels, guess, 4)),
    ):
        assert found[0] == pytest.approx(f1_score(labels, guess, average=average))


def test_weights_mean_the_same_as_repeating_the_cases() -> None:
    rng = np.random.default_rng(1)
    labels, guess = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    weights = resample_weights(50, 4, 7)
    for row, found in zip(weights.astype(int), metrics.macro_f1(labels, guess, 3, weights), strict=True):
        again = np.repeat(np.arange(50), row)
        assert found == pytest.approx(metrics.macro_f1(labels[again], guess[again], 3)[0])


def test_false_safe_counts_only_score_label_cases_given_the_least_strict_decision() -> None:
    labels, decisions = np.array([2, 2, 2, 2, 0]), np.array([0, 1, 2, 2, 0])
    assert metrics.false_safe_rate(labels, decisions, 2)[0] == 0.25
    assert metrics.false_safe_rate(labels[4:], decisions[4:], 2)[0] == 0


def test_perfect_confidence_has_no_calibration_error_and_no_brier_score() -> None:
    labels = np.array([0, 1, 2])
    assert metrics.ece(labels, np.eye(3))[0] == 0
    assert metrics.brier(labels, np.eye(3))[0] == 0
    assert metrics.ece(labels, np.eye(3)[[1, 2, 0]])[0] == 1
    assert metrics.brier(labels, np.eye(3)[[1, 2, 0]])[0] == 2


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        cases = rng.random(120) < 0.7
        found = interval(resample_weights(120, 300, seed) @ cases / 120, 0.9)
        covered += found.low <= 0.7 <= found.high
    assert 165 <= covered <= 195
