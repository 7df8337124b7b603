"""How long do outcomes take? A curve from those that came and from those still awaited."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.detectors.resampling import Numbers


@dataclass(frozen=True, slots=True)
class DelayCurve:
    """The share of decisions whose outcome has come by a given age.

    Attributes:
        ages: Ages at which outcomes came, ascending, shape [steps].
        arrived: Share that has come by then, shape [steps].
        known: Decisions whose outcome came.
        censored: Decisions whose outcome had not come when last looked at.
    """

    ages: tuple[float, ...]
    arrived: tuple[float, ...]
    known: int
    censored: int

    def quantile(self, share: float) -> float:
        """Return the age by which a share has come, infinite where the curve never gets there."""
        place = int(np.searchsorted(self.arrived, share - 1e-12, side="left"))
        return self.ages[place] if place < len(self.ages) else math.inf


def delay_curve(delays: Sequence[float] | Numbers, waiting: Sequence[float] | Numbers) -> DelayCurve:
    """Estimate how outcomes come in, counting those still awaited for as long as they have been.

    Leaving out the ones still awaited would make every label look quick: the young decisions whose
    outcome is known are the quick ones.

    Args:
        delays: Ages at which outcomes came, shape [n].
        waiting: Ages of decisions still without one, shape [m].
    Returns:
        The curve; without any outcome it is empty and says nothing.
    Raises:
        ValueError: An age is negative or not a number.
    Source: product-limit estimate of Kaplan and Meier (1958), one minus survival.
    """
    came, open_still = np.asarray(delays, dtype=np.float64), np.asarray(waiting, dtype=np.float64)
    joined = np.concatenate([came, open_still])
    if np.isnan(joined).any() or (joined < 0).any():
        raise ValueError("an age is negative or not a number, expected ages of 0 and above")
    ages, counts = np.unique(came, return_counts=True)
    ordered = np.sort(joined)
    at_risk = len(joined) - np.searchsorted(ordered, ages, side="left")
    arrived = 1 - np.cumprod(1 - counts / np.maximum(at_risk, 1))
    return DelayCurve(tuple(ages.tolist()), tuple(arrived.tolist()), len(came), len(open_still))
