import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.detectors.sequential import (
    Difference,
    Paired,
    Share,
    difference,
    interval,
    is_ruled_out,
    log_capital,
    lower_bound,
    paired_interval,
    sample_missing,
    upper_bound,
)

RUNS = 200
LENGTH = 1500
DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "bernoulli": lambda rng: rng.random((RUNS, LENGTH)) < 0.3,
    "rare": lambda rng: rng.random((RUNS, LENGTH)) < 0.01,
    "beta": lambda rng: rng.beta(0.6, 1.4, (RUNS, LENGTH)),
    "two-costs": lambda rng: rng.choice([0.0, 0.2, 1.0], (RUNS, LENGTH), p=[0.8, 0.1, 0.1]),
}
MEANS = {"bernoulli": 0.3, "rare": 0.01, "beta": 0.3, "two-costs": 0.12}


def ever_missed(sums: np.ndarray, mean: float, alpha: float) -> np.ndarray:
    """Say which runs' intervals ever miss the mean, looking after every observation.

    The interval misses p exactly when the mixture's likelihood ratio at p reaches 1/alpha.
    """
    lgamma = np.vectorize(math.lgamma)
    n = np.arange(1, sums.shape[1] + 1)
    log_beta = lgamma(0.5 + sums) + lgamma(0.5 + n - sums) - lgamma(1.0 + n) - math.log(math.pi)
    ratio = log_beta - sums * math.log(mean) - (n - sums) * math.log1p(-mean)
    return (ratio >= -math.log(alpha)).any(axis=1)


@pytest.mark.parametrize("name", DRAWS)
def test_looking_after_every_observation_misses_no_more_often_than_stated(name: str) -> None:
    alpha, mean = 0.1, MEANS[name]
    sums = np.cumsum(DRAWS[name](np.random.default_rng(5)).astype(float), axis=1)
    missed = ever_missed(sums, mean, alpha)
    assert missed.mean() <= alpha
    # The closed form above and the interval agree wherever both are computed.
    for run in range(0, RUNS, 10):
        looks = [interval(sums[run, n - 1], n, alpha) for n in range(1, LENGTH + 1, 25)]
        assert missed[run] or all(low <= mean <= high for low, high in looks)


@given(st.integers(0, 400), st.data(), st.floats(0.001, 0.5))
def test_the_interval_holds_the_mean_within_0_and_1(n: int, data: st.DataObject, alpha: float) -> None:
    total = data.draw(st.floats(0, n))
    low, high = interval(total, n, alpha)
    assert 0 <= low <= (total / n if n else 0.5) <= high <= 1


@given(st.floats(0, 1), st.floats(0.001, 0.2))
def test_it_shrinks_as_observations_come_in_and_widens_with_confidence(mean: float, alpha: float) -> None:
    widths = []
    for n in (1, 10, 100, 1_000, 100_000):
        low, high = interval(mean * n, n, alpha)
        inner = interval(mean * n, n, alpha * 2)
        assert low <= inner[0] and inner[1] <= high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.02


@given(st.integers(1, 300), st.data())
def test_successes_and_failures_mirror_each_other(n: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(0, n))
    low, high = interval(total, n, 0.05)
    assert interval(n - total, n, 0.05) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_nothing_seen_rules_nothing_out() -> None:
    assert interval(0, 0, 0.05) == (0.0, 1.0)
    assert difference(0, 0, 0, 0, 0.05) == (-1.0, 1.0)


@pytest.mark.parametrize("n", [1, 50, 10_000])
def test_all_or_nothing_keeps_the_end_it_cannot_rule_out(n: int) -> None:
    assert interval(0, n, 0.05)[0] == 0.0
    assert interval(n, n, 0.05)[1] == 1.0


@pytest.mark.parametrize(
    "successes, n, alpha", [(-1, 5, 0.1), (6, 5, 0.1), (0, -1, 0.1), (math.nan, 5, 0.1), (1, 5, 0)]
)
def test_impossible_counts_are_refused(successes: float, n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        interval(successes, n, alpha)


def test_a_difference_is_found_and_its_sign_is_right() -> None:
    low, high = difference(600, 2000, 200, 2000, 0.05)
    assert 0 < low < 0.2 < high
    assert difference(200, 2000, 600, 2000, 0.05) == pytest.approx((-high, -low))


@given(st.integers(0, 200), st.data(), st.floats(0.02, 0.9))
def test_the_missing_sample_is_the_least_that_reaches_the_limit(n: int, data: st.DataObject, limit: float) -> None:
    total = data.draw(st.integers(0, n))
    missing = sample_missing(Share(total, n), limit, 0.05) if n == 0 or total / n <= limit else None
    mean = total / n if n else 0.0
    if missing is None:
        assert mean >= limit or limit - mean < 0.01
    else:
        assert interval(min(total + mean * missing, n + missing), n + missing, 0.05)[1] <= limit
        if missing:
            assert interval(min(total + mean * (missing - 1), n + missing - 1), n + missing - 1, 0.05)[1] > limit


def test_the_missing_sample_of_a_difference_reaches_the_limit() -> None:
    few = Difference(10, 100, 10, 100)
    missing = sample_missing(few, 0.05, 0.05)
    assert missing is not None and missing > 0
    assert upper_bound(few.grown(missing), 0.05) <= 0.05 < upper_bound(few.grown(missing - 1), 0.05)
    assert sample_missing(Difference(10, 10_000, 10, 10_000), 0.05, 0.05) == 0


def test_one_arm_alone_says_nothing_of_a_difference() -> None:
    assert difference(0, 0, 500, 500, 0.05) == difference(500, 500, 0, 0, 0.05) == (-1.0, 1.0)


ARMS = {"alike": (0.1, 0.1), "apart": (0.3, 0.28), "rare": (0.02, 0.0), "certain": (1.0, 0.98)}


@pytest.mark.parametrize("name", ARMS)
def test_a_difference_of_arms_is_missed_no_more_often_than_stated(name: str) -> None:
    rng, alpha, looks = np.random.default_rng(7), 0.1, range(1, 800, 13)
    a_mean, b_mean = ARMS[name]
    missed = 0
    for _ in range(60):
        a, b = (np.cumsum(rng.random(800) < mean).tolist() for mean in (a_mean, b_mean))
        seen = (Difference(a[n], n + 1, b[n // 2], n // 2 + 1) for n in looks)  # arms come at different rates
        missed += any(is_ruled_out(sample, a_mean - b_mean, alpha) for sample in seen)
    assert missed <= 60 * alpha


PAIRS = {
    "symmetric": ((-1.0, 0.0, 1.0), (0.1, 0.8, 0.1)),
    "skewed": ((-0.2, 0.0, 1.0), (0.25, 0.7, 0.05)),
    "rare": ((-1.0, 0.0, 0.5), (0.002, 0.994, 0.004)),
    "steady": ((0.02,), (1.0,)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_bets_on_pairs_win_against_the_truth_no_more_often_than_stated(name: str) -> None:
    values, chances = (np.array(x) for x in PAIRS[name])
    alpha, mean = 0.1, float(values @ chances)
    drawn = np.random.default_rng(3).choice(len(values), (RUNS, LENGTH), p=chances)
    counts = np.cumsum(drawn[..., None] == np.arange(len(values)), axis=1).astype(float)[:, ::5]
    for is_above in (True, False):
        capital = log_capital(counts, values, mean, is_above=is_above)
        assert (capital >= -math.log(alpha)).any(axis=1).mean() <= alpha
    # The gate reads the same number from the counts.
    last = Paired.of(dict(zip(values.tolist(), counts[0, -1].tolist(), strict=True)))
    assert last.log_evidence(mean) == pytest.approx(
        float(log_capital(counts[0, -1], values, mean, is_above=last.value > mean))
    )


@given(st.dictionaries(st.sampled_from([-1.0, -0.2, 0.0, 0.5, 1.0]), st.integers(1, 300), max_size=5))
def test_bounds_of_pairs_hold_their_mean_and_turn_with_their_sign(counts: dict[float, int]) -> None:
    found, turned = Paired.of(counts), Paired.of({-value: n for value, n in counts.items()})
    low, high = lower_bound(found, 0.05), upper_bound(found, 0.05)
    assert -1 <= low <= found.value <= high <= 1
    assert (low, high) == pytest.approx((-upper_bound(turned, 0.05), -lower_bound(turned, 0.05)), abs=1e-8)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_rounding_differences_only_widens(found: list[float]) -> None:
    values, counts = np.unique(found, return_counts=True)
    exact = Paired.of(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    low, high = paired_interval(np.array(found), 0.05)
    assert low <= lower_bound(exact, 0.025) + 1e-9 and high >= upper_bound(exact, 0.025) - 1e-9


def test_pairs_are_bounded_far_closer_than_their_arms_would_be() -> None:
    pairs = Paired.of({-1.0: 50, 0.0: 900, 1.0: 50})
    low, high = difference(150, 1000, 150, 1000, 0.05)
    assert upper_bound(pairs, 0.025) - lower_bound(pairs, 0.025) < 0.75 * (high - low)


def test_what_is_no_difference_is_refused() -> None:
    for wrong in ({1.5: 1}, {0.5: -1}):
        with pytest.raises(ValueError, match="expected values in -1..1"):
            Paired.of(wrong)
