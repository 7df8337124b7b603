"""Evidence against a mean that may be looked at as often as one likes: what gates pass and fail on.

Each kind of sample gives, for any value that its mean might have, an e-process: a non-negative supermartingale
that starts at 1 when the mean is that value. By Ville's inequality it ever reaches 1/alpha with probability
at most alpha, so the values whose evidence stays below that bound the mean at all times at once (a confidence
sequence), however often and for whatever reason somebody looks.

- ``Share``: the beta mixture of Bernoulli likelihood ratios. Observations lie in 0..1; each ratio is convex in the
  observation, so in expectation it is largest for observations of 0 and 1, where it averages 1.
- ``Difference`` of two independent arms: such mixtures over pairs of means, half of them over equal ones, over the
  largest likelihood that any pair with this difference has. It is below the ratio at the true means, which is such a
  supermartingale in whatever order the arms' observations come.
- ``Paired``: the mean of differences in -1..1 of the same requests, by a mixture of bets against it: capital that bets
  a fixed share at fair odds grows only if the mean is another. It depends on counts by value alone, not on order.

Sources: Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; Wasserman, Ramdas and
Balakrishnan (2020), "Universal inference"; Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform, nonparametric,
nonasymptotic confidence sequences"; Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by
betting".
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

PRIOR = 0.5  # both parameters of the mixing beta distribution (Jeffreys): narrow near 0 and 1, where costs are
STEPS = 36  # halvings towards a bound
FURTHEST = 10_000_000  # observations: a wait beyond it is no plan
BETS = np.geomspace(0.002, 1.0, 32)  # shares of the capital at stake: small ones for small effects, 1 for certain ones
INWARD = 40  # halvings towards the likeliest pair of means with one difference
FINEST = 256  # steps between 0 and 1 that paired differences of many values are rounded outwards to


class Sample(Protocol):
    """Observations whose mean is asked for."""

    @property
    def value(self) -> float:
        """Return the mean seen so far, 0 without an observation."""

    @property
    def n(self) -> int:
        """Return the number of observations, of the smaller arm where there are two."""

    @property
    def scale(self) -> tuple[float, float]:
        """Return the least and the largest mean there can be."""

    def log_evidence(self, mean: float) -> float:
        """Return the log of the e-process against a mean; 0 where nothing speaks against it."""

    def grown(self, more: int) -> Self:
        """Return the sample after so many more observations like those seen; of 0 where there are none."""


@dataclass(frozen=True, slots=True)
class Share:
    """``n`` observations, each in 0..1, that add up to ``total``."""

    total: float
    n: int

    def __post_init__(self) -> None:
        if self.n < 0 or not 0 <= self.total <= self.n:
            raise ValueError(f"successes is {self.total} of {self.n}, expected 0 to n")

    @property
    def value(self) -> float:
        """Return the share seen so far."""
        return self.total / self.n if self.n else 0.0

    @property
    def scale(self) -> tuple[float, float]:
        """Return 0 and 1."""
        return 0.0, 1.0

    def log_evidence(self, mean: float) -> float:
        """Return the log of the mixture's likelihood ratio at a mean."""
        return _log_mixture(self.total, self.n) - _log_likelihood(self.total, self.n, mean)

    def grown(self, more: int) -> Self:
        """Return the sample after more of the same."""
        n = self.n + more
        return type(self)(min(self.total + self.value * more, n), n)


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of arm a less mean of arm b: independent observations in 0..1, as sums and numbers."""

    a_total: float
    a_n: int
    b_total: float
    b_n: int

    def __post_init__(self) -> None:
        self._arms()

    def _arms(self) -> tuple[Share, Share]:
        return Share(self.a_total, self.a_n), Share(self.b_total, self.b_n)

    @property
    def value(self) -> float:
        """Return the difference seen so far; an arm without an observation counts as 0."""
        a, b = self._arms()
        return a.value - b.value

    @property
    def n(self) -> int:
        """Return the observations of the smaller arm."""
        return min(self.a_n, self.b_n)

    @property
    def scale(self) -> tuple[float, float]:
        """Return -1 and 1."""
        return -1.0, 1.0

    def log_evidence(self, mean: float) -> float:
        """Return the log of the mixtures over the likeliest pair of means that differ by ``mean``."""
        if not self.n:
            return 0.0  # one arm alone says nothing of a difference
        apart = _log_mixture(self.a_total, self.a_n) + _log_mixture(self.b_total, self.b_n)
        equal = _log_mixture(self.a_total + self.b_total, self.a_n + self.b_n)
        mixtures = max(apart, equal) + math.log1p(math.exp(-abs(apart - equal))) - math.log(2)
        low, high = max(0.0, -mean), min(1.0, 1.0 - mean)
        for _ in range(INWARD):
            middle = (low + high) / 2
            slope = _slope(self.a_total, self.a_n, middle + mean) + _slope(self.b_total, self.b_n, middle)
            low, high = (middle, high) if slope > 0 else (low, middle)
        b = (low + high) / 2
        likeliest = _log_likelihood(self.a_total, self.a_n, min(1.0, max(0.0, b + mean))) + _log_likelihood(
            self.b_total, self.b_n, b
        )
        return mixtures - likeliest

    def grown(self, more: int) -> Self:
        """Return the sample after so many more of the same in each arm."""
        a, b = (arm.grown(more) for arm in self._arms())
        return type(self)(a.total, a.n, b.total, b.n)


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of the same requests, each in -1..1: how often each value was seen. Counts may be fractions."""

    tally: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, counts: Mapping[float, float]) -> Self:
        """Take counts by value; raises ValueError for a value outside -1..1 or a negative count."""
        for value, count in counts.items():
            if not -1 <= value <= 1 or count < 0:
                raise ValueError(f"{count} differences of {value}, expected values in -1..1 and counts from 0")
        return cls(tuple(sorted((float(v), float(c)) for v, c in counts.items() if c)))

    @property
    def value(self) -> float:
        """Return the mean difference seen so far."""
        n = sum(count for _, count in self.tally)
        return sum(value * count for value, count in self.tally) / n if n else 0.0

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return round(sum(count for _, count in self.tally))

    @property
    def scale(self) -> tuple[float, float]:
        """Return -1 and 1."""
        return -1.0, 1.0

    def log_evidence(self, mean: float) -> float:
        """Return the log of the capital of bets that the mean lies on the side of ``mean`` that was seen."""
        if not self.tally:
            return 0.0
        values, counts = np.array(self.tally).T
        return float(log_capital(counts, values, mean, is_above=self.value > mean))

    def grown(self, more: int) -> Self:
        """Return the sample after so many more pairs like those seen."""
        n = sum(count for _, count in self.tally)
        if not n:
            return type(self).of({0.0: more})
        return type(self)(tuple((value, count * (1 + more / n)) for value, count in self.tally))


def log_capital(
    counts: npt.NDArray[np.float64], values: npt.NDArray[np.float64], mean: float, *, is_above: bool
) -> npt.NDArray[np.float64]:
    """Return the log of the capital after betting on differences, whatever their order.

    Args:
        counts: How often each value was seen, shape [..., values].
        values: In -1..1, shape [values].
        mean: The mean that is bet against.
        is_above: Bet that the true mean is above it; otherwise below.
    Returns:
        Shape [...]. Each of ``BETS`` starts with an equal part of a capital of 1.
    """
    sign = 1.0 if is_above else -1.0
    place, seen = (1 + sign * mean) / 2, (1 + sign * values) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log1p(BETS[:, None] * (seen / place - 1)) if place > 0 else np.full((len(BETS), len(seen)), np.inf)
        # A value that was never seen takes nothing, even where it would have taken all.
        logs = np.where(counts[..., None, :] > 0, counts[..., None, :] * growth, 0.0).sum(axis=-1)
        most = logs.max(axis=-1, keepdims=True)
        total = np.exp(logs - np.where(np.isfinite(most), most, 0.0)).sum(axis=-1)
        return np.asarray(np.log(total) + np.where(np.isfinite(most), most, 0.0)[..., 0] - math.log(len(BETS)))


def lower_bound(sample: Sample, alpha: float) -> float:
    """Return what the mean is at least; of all looks together, any is wrong with probability at most ``alpha``."""
    return _bound(sample, alpha, sample.scale[0])


def upper_bound(sample: Sample, alpha: float) -> float:
    """Return what the mean is at most; of all looks together, any is wrong with probability at most ``alpha``."""
    return _bound(sample, alpha, sample.scale[1])


def is_ruled_out(sample: Sample, mean: float, alpha: float) -> bool:
    """Say whether a mean lies beyond the sample's bound on that side."""
    return bool(sample.n) and sample.log_evidence(mean) >= -math.log(alpha)


def interval(successes: float, n: int, alpha: float) -> tuple[float, float]:
    """Bound a mean; the bounds of all n together miss it with probability at most ``alpha``.

    Args:
        successes: Sum of ``n`` observations, each in 0..1.
    Raises:
        ValueError: The sum is not in 0..n, or alpha is not between 0 and 1.
    """
    sample = Share(successes, n)
    return lower_bound(sample, alpha), upper_bound(sample, alpha)


def difference(a_sum: float, a_n: int, b_sum: float, b_n: int, alpha: float) -> tuple[float, float]:
    """Bound mean a minus mean b of independent arms at all times; both together miss it with at most ``alpha``."""
    sample = Difference(a_sum, a_n, b_sum, b_n)
    return lower_bound(sample, alpha), upper_bound(sample, alpha)


def paired_interval(differences: npt.NDArray[np.float64], alpha: float) -> tuple[float, float]:
    """Bound the mean of paired differences in -1..1 at all times, missing it with probability at most ``alpha``.

    Differences are rounded outwards to 1/``FINEST``, so that many values cost no more than a few.
    """
    found = []
    for bound, rounded in ((lower_bound, np.floor), (upper_bound, np.ceil)):
        values, counts = np.unique(rounded(differences * FINEST) / FINEST, return_counts=True)
        tally = Paired.of(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        found.append(bound(tally, alpha / 2))
    return found[0], found[1]


def sample_missing(sample: Sample, limit: float, alpha: float) -> int | None:
    """Estimate how many further observations rule the limit out, if the mean stays what it is.

    Returns:
        0 when they have, None when the wait exceeds ``FURTHEST``. Without observations it is the best case, a
        mean of 0.
    """
    return _first(lambda more: is_ruled_out(sample.grown(more), limit, alpha))


def _bound(sample: Sample, alpha: float, outside: float) -> float:
    """Close in on the edge of what is not ruled out, and return the outer end: rounding may only widen."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, expected between 0 and 1")
    if not is_ruled_out(sample, outside, alpha):
        return outside
    # A mixture is below the likelihood at the mean seen, so that is never ruled out.
    inside = sample.value
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if middle in (outside, inside):
            break
        if is_ruled_out(sample, middle, alpha):
            outside = middle
        else:
            inside = middle
    return outside


def _log_mixture(total: float, n: int) -> float:
    return _log_beta(PRIOR + total, PRIOR + n - total) - _log_beta(PRIOR, PRIOR)


def _log_likelihood(total: float, n: int, p: float) -> float:
    """Return the log-likelihood; of a mean that what was seen makes impossible it is minus infinity."""
    missed = n - total
    if (total and p <= 0) or (missed and p >= 1):
        return -math.inf
    return (total * math.log(p) if total else 0.0) + (missed * math.log1p(-p) if missed else 0.0)


def _slope(total: float, n: int, p: float) -> float:
    """Return the derivative of the log-likelihood, infinite at an end that it falls off to."""
    missed = n - total
    rise = 0.0 if not total else (total / p if p > 0 else math.inf)
    fall = 0.0 if not missed else (missed / (1 - p) if p < 1 else math.inf)
    return rise - fall


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


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
