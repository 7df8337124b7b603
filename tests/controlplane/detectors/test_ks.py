import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from controlplane.detectors import TooFewSamples
from controlplane.detectors.ks import kolmogorov_smirnov

VALUES = st.lists(st.floats(-5, 5) | st.integers(-2, 2), min_size=1, max_size=60)


# Only the statistic is compared; the p-value is what scipy warns about.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(VALUES, VALUES)
def test_the_statistic_is_scipy_s(reference: list[float], live: list[float]) -> None:
    assert kolmogorov_smirnov(reference, live) == pytest.approx(
        ks_2samp(reference, live, method="asymp").statistic, abs=1e-12
    )


@given(VALUES, VALUES)
def test_it_is_symmetric_and_bounded(reference: list[float], live: list[float]) -> None:
    value = kolmogorov_smirnov(reference, live)
    assert 0 <= value <= 1
    assert value == kolmogorov_smirnov(live, reference)
    assert kolmogorov_smirnov(live, live) == 0


def test_a_window_without_values_has_no_distance() -> None:
    with pytest.raises(TooFewSamples):
        kolmogorov_smirnov([], [1.0])


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        kolmogorov_smirnov([1.0], [np.nan, 2.0])
