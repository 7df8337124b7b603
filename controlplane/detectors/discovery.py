"""Many signals at once: which of them stand out, when looking at each alone would find some by chance."""

import math
from collections.abc import Sequence


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> float:
    """Return the largest p-value that may be called a discovery at the stated rate of false ones.

    At most ``rate`` of the discoveries are false on average; where nothing has changed, the chance of
    any discovery is at most ``rate``.

    Args:
        p_values: One per signal, NaN where a signal could not be measured.
        rate: False discoveries as a share of all, between 0 and 1.
    Returns:
        The cut: discoveries are the p-values at or below it. Without any it is where one alone would count.
    Raises:
        ValueError: The rate is not between 0 and 1, or there is no signal.
    Source: Benjamini and Hochberg (1995); for positively dependent signals Benjamini and Yekutieli (2001).
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}, expected between 0 and 1")
    if not p_values:
        raise ValueError("p_values is empty, expected at least one signal")
    ordered = sorted(p for p in p_values if not math.isnan(p))
    signals = len(p_values)
    found = max((k for k, p in enumerate(ordered, 1) if p <= k * rate / signals), default=1)
    return rate * found / signals
