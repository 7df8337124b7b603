"""Intervals for a mean that stay valid however often somebody looks at them.

Observations lie in 0..1 and share a conditional mean. For a fixed mean p, the beta mixture of Bernoulli
likelihood ratios is a non-negative supermartingale starting at 1: each ratio is convex in the
observation, so it is largest in expectation for observations of 0 and 1, where it averages 1. By Ville's
inequality it ever exceeds 1/alpha with probability at most alpha, so the p that it has
not ruled out cover the mean at all times at once.

Sources: Robbins (1970), "Statistical methods related to the law of the iterated logarithm";
Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences".
"""

import math
from collections.abc import Callable

PRIOR = 0.5  # both parameters of the mixing beta distribution (Jeffreys): narrow near 0 and 1, where costs are
STEPS = 60  # halvings of an interval in 0..1: beyond the precision of a float
FURTHEST = 10_000_000  # observations: a wait beyond it is no plan


def interval(successes: float, n: int, alpha: float) -> tuple[float, float]:
    """Bound a mean; the bounds of all n together miss it with probability at most ``alpha``.

    Args:
        successes: Sum of ``n`` observations, each in 0..1.
    Raises:
        ValueError: The sum is not in 0..n, or alpha is not between 0 and 1.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes is {successes} of {n}, expected 0 to n")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, expected between 0 and 1")
    if n == 0:
        return 0.0, 1.0
    failures = n - successes
    mixture = _log_beta(PRIOR + successes, PRIOR + failures) - _log_beta(PRIOR, PRIOR)
    limit = -math.log(alpha)

    def is_ruled_out(p: float) -> bool:
        likelihood = (successes * math.log(p) if successes else 0.0) + (failures * math.log1p(-p) if failures else 0.0)
        return mixture - likelihood >= limit

    mean = successes / n
    # The mixture is below the likelihood at the mean, so the mean itself is never ruled out.
    low = _edge(is_ruled_out, 0.0, mean) if successes else 0.0
    high = _edge(is_ruled_out, 1.0, mean) if failures else 1.0
    return low, high


def difference(a_sum: float, a_n: int, b_sum: float, b_n: int, alpha: float) -> tuple[float, float]:
    """Bound mean a minus mean b at all times, splitting ``alpha`` between the two (union bound)."""
    a_low, a_high = interval(a_sum, a_n, alpha / 2)
    b_low, b_high = interval(b_sum, b_n, alpha / 2)
    return a_low - b_high, a_high - b_low


def sample_missing(successes: float, n: int, limit: float, alpha: float) -> int | None:
    """Estimate how many further observations bring the upper bound down to ``limit``, if the mean stays.

    Returns:
        0 when it is there, None when the mean seen so far is not below the limit or the wait exceeds ``FURTHEST``.
        Without observations it is the best case, a mean of 0.
    """
    mean = successes / n if n else 0.0
    return _first(lambda more: interval(min(successes + mean * more, n + more), n + more, alpha)[1] <= limit)


def difference_sample_missing(a_sum: float, a_n: int, b_sum: float, b_n: int, limit: float, alpha: float) -> int | None:
    """Estimate how many further observations of each arm bring the upper bound of a minus b down to ``limit``.

    Returns:
        As ``sample_missing``.
    """
    a_mean, b_mean = a_sum / a_n if a_n else 0.0, b_sum / b_n if b_n else 0.0

    def is_enough(more: int) -> bool:
        a, b = min(a_sum + a_mean * more, a_n + more), min(b_sum + b_mean * more, b_n + more)
        return difference(a, a_n + more, b, b_n + more, alpha)[1] <= limit

    return _first(is_enough)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(is_ruled_out: Callable[[float], bool], outside: float, inside: float) -> float:
    """Close in on the edge of what is not ruled out, and return the outer end: rounding may only widen."""
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if middle in (outside, inside):
            break
        if is_ruled_out(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _first(is_enough: Callable[[int], bool]) -> int | None:
    """Return the least number that is enough, given that every larger one is."""
    if is_enough(0):
        return 0
    more = 1
    while not is_enough(more):
        if more >= FURTHEST:
            return None
        more = min(2 * more, FURTHEST)
    below = more // 2
    while more - below > 1:
        middle = (below + more) // 2
        if is_enough(middle):
            more = middle
        else:
            below = middle
    return more
