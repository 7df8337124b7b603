import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.drift import DriftVerdict, Measurement, judge, read

OVER, UNDER = Measurement(0.4, 0.2, 100), Measurement(0.1, 0.2, 100)
FEW, BROKEN = Measurement(0.9, 0.2, 9), Measurement(math.nan, 0.2, 100)


@pytest.mark.parametrize(
    "history, verdict",
    [
        pytest.param([], DriftVerdict.UNKNOWN, id="nothing-measured"),
        pytest.param([OVER, OVER, FEW], DriftVerdict.UNKNOWN, id="too-few-samples"),
        pytest.param([OVER, OVER, BROKEN], DriftVerdict.UNKNOWN, id="not-a-number"),
        pytest.param([Measurement(0.4, math.nan, 100)], DriftVerdict.UNKNOWN, id="no-threshold"),
        pytest.param([UNDER], DriftVerdict.NO_DRIFT, id="within"),
        pytest.param([Measurement(0.2, 0.2, 100)], DriftVerdict.NO_DRIFT, id="at-the-threshold"),
        pytest.param([OVER], DriftVerdict.WATCH, id="once-over"),
        pytest.param([OVER, OVER], DriftVerdict.WATCH, id="twice-over"),
        pytest.param([OVER, OVER, OVER], DriftVerdict.DRIFT, id="persistently-over"),
        pytest.param([OVER, OVER, UNDER], DriftVerdict.NO_DRIFT, id="recovered"),
        pytest.param([OVER, OVER, UNDER, OVER], DriftVerdict.WATCH, id="broken-by-a-good-window"),
        pytest.param([OVER, OVER, FEW, OVER], DriftVerdict.WATCH, id="broken-by-an-unmeasured-window"),
        pytest.param([Measurement(0.9, 0.2, 100, 3)], DriftVerdict.DRIFT, id="as-unlikely-as-three"),
        pytest.param([Measurement(0.1, 0.2, 100, 3)], DriftVerdict.NO_DRIFT, id="within-whatever-it-counts-for"),
    ],
)
def test_the_verdict_follows_the_windows(history: list[Measurement], verdict: DriftVerdict) -> None:
    assert judge(history, persistence=3, minimum_sample=10) is verdict
    reading = read("psi", history, persistence=3, minimum_sample=10)
    assert reading.verdict is verdict and "psi" in reading.summary


@given(st.lists(st.sampled_from([OVER, UNDER, FEW, BROKEN])), st.integers(1, 5))
def test_drift_means_the_last_windows_all_exceeded(history: list[Measurement], persistence: int) -> None:
    is_drift = judge(history, persistence, 10) is DriftVerdict.DRIFT
    assert is_drift == (len(history) >= persistence and all(m is OVER for m in history[-persistence:]))


@pytest.mark.parametrize("persistence, minimum", [(0, 1), (1, 0)])
def test_a_rule_that_asks_for_nothing_is_refused(persistence: int, minimum: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        judge([OVER], persistence, minimum)
