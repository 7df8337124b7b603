import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.detectors.delay import delay_curve

AGES = st.lists(st.floats(0, 100), max_size=40)


def test_decisions_still_awaited_count_for_as_long_as_they_have_been() -> None:
    rng = np.random.default_rng(0)
    delays, ages = rng.exponential(10, 4000), rng.uniform(0, 15, 4000)  # looked at while most are young
    came = delays[delays <= ages]
    curve = delay_curve(came, ages[delays > ages])
    assert curve.quantile(1 - math.exp(-1)) == pytest.approx(10, abs=0.7)
    assert float((came <= 10).mean()) > 0.9  # what leaving them out would have said


@given(AGES, AGES)
def test_the_curve_rises_from_0_and_stays_within_1(came: list[float], waiting: list[float]) -> None:
    curve = delay_curve(came, waiting)
    assert list(curve.arrived) == sorted(curve.arrived)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in curve.arrived)
    assert (curve.known, curve.censored) == (len(came), len(waiting))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_without_anything_awaited_it_is_the_plain_share(came: list[float]) -> None:
    curve = delay_curve(came, [])
    assert curve.arrived == pytest.approx([sum(c <= age for c in came) / len(came) for age in curve.ages])
    assert curve.ages == tuple(sorted(set(came)))
    assert curve.quantile(1.0) == max(came)


def test_an_outcome_that_never_comes_leaves_the_quantile_open() -> None:
    assert delay_curve([1.0], [50.0] * 9).quantile(0.9) == math.inf


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(ValueError, match="ages of 0 and above"):
        delay_curve([-1.0], [])
