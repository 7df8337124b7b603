import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.detectors import ks
from controlplane.detectors.resampling import Null, draw_members
from controlplane.detectors.thresholds import conformal_quantile


@given(st.permutations(range(1, 61)))
def test_the_rank_is_one_higher_than_the_plain_quantile(scores: list[int]) -> None:
    assert conformal_quantile(scores, 0.05) == math.ceil(61 * 0.95)
    assert conformal_quantile(scores, 1 / 61) == 60


def test_a_rate_that_so_few_scores_cannot_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 99"):
        conformal_quantile(range(60), 0.01)
    assert conformal_quantile(range(99), 0.01) == 98


@pytest.mark.parametrize("rate", [0, 1, -0.1, math.nan])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="false_alarm_rate"):
        conformal_quantile([1.0, 2.0], rate)


def test_nan_never_becomes_a_threshold() -> None:
    with pytest.raises(ValueError, match="NaN"):
        conformal_quantile([math.nan] * 100, 0.1)


def test_both_sides_of_a_round_are_disjoint_and_cover_the_reference() -> None:
    members = draw_members(50, 20, 200, 0)
    assert members.shape == (200, 50) and set(members.sum(axis=1)) == {20}
    assert len({row.tobytes() for row in members}) == 200


def test_false_alarms_stay_near_the_stated_rate_and_changes_are_found() -> None:
    rng = np.random.default_rng(11)
    alarms = found = 0
    for seed in range(150):
        pool = rng.normal(size=400)
        drawn = draw_members(400, 100, 99, seed)
        threshold = Null.of(ks.resampled(pool, drawn), np.zeros(1), 0.1).quantile(0.1)
        alarms += ks.kolmogorov_smirnov(pool, rng.normal(size=100)) > threshold
        found += ks.kolmogorov_smirnov(pool, rng.normal(1, 1, size=100)) > threshold
    assert alarms <= 150 * 0.1 + 3 * math.sqrt(150 * 0.1 * 0.9)
    assert found == 150
