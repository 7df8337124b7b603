"""Each statistic against another way to compute it, and what all of them have in common."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import energy_distance as scipy_energy

from controlplane.detectors import TooFewSamples, calibration, energy, ks, total_variation
from controlplane.detectors.discovery import benjamini_hochberg
from controlplane.detectors.performance import estimate_accuracy
from controlplane.detectors.psi import population_stability_index
from controlplane.detectors.resampling import Null, draw_members, members_in_order, split_means

SEEDS = st.integers(0, 2**31)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_resampling_at_once_gives_what_one_window_at_a_time_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = draw_members(40, 12, 5, seed)
    numbers = rng.integers(0, 6, 40).astype(float)  # with ties
    codes = rng.integers(0, 4, 40)
    rows = rng.normal(size=(40, 3)).astype(np.float32)
    scores, hits = rng.random(40).round(1), rng.integers(0, 2, 40).astype(float)
    for i, inside in enumerate(members):
        rest, live = ~inside, inside
        assert ks.resampled(numbers, members)[i] == pytest.approx(ks.kolmogorov_smirnov(numbers[rest], numbers[live]))
        assert total_variation.resampled(codes, members)[i] == pytest.approx(
            total_variation.total_variation(codes[rest], codes[live])
        )
        assert energy.resampled(rows, members)[i] == pytest.approx(
            energy.energy_distance(rows[rest], rows[live]), abs=1e-4
        )
        assert calibration.resampled(scores, hits, members)[i] == pytest.approx(
            calibration.calibration_shift(scores[rest], hits[rest], scores[live], hits[live])
        )
        assert split_means(numbers, members)[i] == pytest.approx(numbers[live].mean() - numbers[rest].mean())


def test_in_one_dimension_the_energy_distance_is_scipy_s_up_to_its_bias() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(400, 1)), rng.normal(1, 1, size=(300, 1))
    ours = energy.energy_distance(first.astype(np.float32), second.astype(np.float32))
    # scipy's is the square root of the V-statistic, which counts each row's distance of 0 to itself.
    assert ours == pytest.approx(scipy_energy(first[:, 0], second[:, 0]) ** 2, abs=0.01)


@given(SEEDS, st.floats(0.02, 0.2))
@settings(max_examples=30, deadline=None)
def test_a_conformal_p_value_is_at_most_the_rate_exactly_above_its_quantile(seed: int, rate: float) -> None:
    scores = np.random.default_rng(seed).normal(size=400).round(2)
    null = Null.of(scores, np.array([-9.0]), rate)
    for value in np.linspace(scores.min() - 1, scores.max() + 1, 60):
        for asked in (rate, rate / 2):
            assert (null.p_value(value) <= asked) == (value > null.quantile(asked))


def test_beyond_every_window_seen_p_values_go_on_falling_and_never_below_a_light_tail_s() -> None:
    rng = np.random.default_rng(0)
    null = Null.of(np.abs(rng.normal(size=3000)), np.array([0.0]), 0.01)
    values = np.linspace(null.tail[0], 7, 20)
    p_values = [null.p_value(v) for v in values]
    assert p_values == sorted(p_values, reverse=True)
    assert all(p >= math.erfc(v / math.sqrt(2)) / 3 for p, v in zip(p_values, values, strict=True))


def test_what_a_reference_does_in_its_own_order_is_no_alarm() -> None:
    hours = np.tile(np.repeat(np.arange(10.0), 10), 4)  # like hours of a day: windows of 50 differ, days do not
    drawn, ordered = draw_members(400, 50, 500, 0), members_in_order(400, 50)
    null = Null.of(ks.resampled(hours, drawn), ks.resampled(hours, ordered), 0.05)
    half_a_day = ks.kolmogorov_smirnov(hours, hours[:50])
    assert half_a_day > null.tail[0]
    assert null.p_value(half_a_day) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.3))
def test_discoveries_are_those_of_the_step_up_procedure(p_values: list[float], rate: float) -> None:
    cut = benjamini_hochberg(p_values, rate)
    found = sum(p <= cut for p in p_values)
    m = len(p_values)
    expected = max((k for k in range(1, m + 1) if sorted(p_values)[k - 1] <= k * rate / m), default=0)
    assert found == expected


def test_without_drift_any_discovery_is_as_rare_as_stated() -> None:
    rng = np.random.default_rng(1)
    found = [min(p) <= benjamini_hochberg(list(p), 0.1) for p in rng.random((4000, 12))]
    assert np.mean(found) < 0.1 + 3 * math.sqrt(0.09 / 4000)


def test_recalibrated_confidence_estimates_accuracy_and_outcomes_check_it() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 4000)
    correct = (rng.random(4000) < confidence - 0.2).astype(float)  # overconfident by 0.2
    live = rng.uniform(0.5, 0.7, 800)  # harder inputs, the same meaning
    truth = (rng.random(800) < live - 0.2).astype(float)
    found = estimate_accuracy(confidence, correct, live, truth)
    assert found.holds is True
    assert found.lower <= truth.mean() <= found.upper
    changed = estimate_accuracy(confidence, correct, live, (rng.random(800) < live - 0.45).astype(float))
    assert changed.holds is False and "do not use" in changed.why
    unknown = estimate_accuracy(confidence, correct, live, np.full(800, np.nan))
    assert unknown.holds is None and unknown.value == pytest.approx(found.value)


def test_calibration_shift_ignores_scores_that_move_and_sees_scores_that_stop_coming_true() -> None:
    rng = np.random.default_rng(4)
    scores, low = rng.uniform(0, 1, 5000), rng.uniform(0, 0.3, 5000)
    hits, low_hits = (rng.random(5000) < scores).astype(float), (rng.random(5000) < low).astype(float)
    moved = calibration.calibration_shift(scores, hits, low, low_hits)
    broken = calibration.calibration_shift(scores, hits, low, (rng.random(5000) < low + 0.3).astype(float))
    assert moved < 0.03 < 0.2 < broken


def test_the_stability_index_is_symmetric_and_zero_for_equal_shares() -> None:
    first, second = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    assert population_stability_index(first, first) == 0
    assert population_stability_index(first, second) == pytest.approx(population_stability_index(second, first))


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(lambda e: energy.energy_distance(np.zeros((1, 2), np.float32), e.reshape(0, 2)), id="energy"),
        pytest.param(lambda e: total_variation.total_variation(e.astype(int), e.astype(int)), id="total-variation"),
        pytest.param(lambda e: calibration.calibration_shift(e, e, e, e), id="calibration"),
        pytest.param(lambda e: population_stability_index(e.astype(int), e.astype(int)), id="psi"),
        pytest.param(lambda e: estimate_accuracy(e, e, e, e), id="performance"),
        pytest.param(lambda e: draw_members(10, 6, 5, 0), id="resampling"),
    ],
)
def test_too_little_is_refused_by_name(measure: object) -> None:
    with pytest.raises(TooFewSamples):
        measure(np.zeros(0, dtype=np.float32))  # type: ignore[operator]
