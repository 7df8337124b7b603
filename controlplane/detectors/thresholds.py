"""Where a statistic becomes an alarm, learned from windows of the same traffic compared with itself."""

import math
from collections.abc import Sequence


def conformal_quantile(scores: Sequence[float], false_alarm_rate: float) -> float:
    """Return the smallest score that a further, exchangeable score exceeds with at most the stated probability.

    Raises:
        ValueError: The rate is not in 0..1, a score is NaN, or there are too few scores for so rare an alarm.
    Source: split conformal quantile, rank ceil((n + 1)(1 - rate)) (Vovk et al., 2005).
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}, expected between 0 and 1")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN, expected numbers")
    # Rounded first: (n + 1)(1 - rate) is often a whole number that floating point misses from above.
    rank = math.ceil(round((len(scores) + 1) * (1 - false_alarm_rate), 9))
    if rank > len(scores):
        needed = math.ceil(round(1 / false_alarm_rate, 9)) - 1
        raise ValueError(f"{len(scores)} scores cannot bound a rate of {false_alarm_rate}, expected at least {needed}")
    return sorted(scores)[rank - 1]
