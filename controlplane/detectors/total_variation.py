"""How far apart two samples of a category are: the share of rows that would have to change theirs."""

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Members, Numbers

Codes = NDArray[np.int64]


def total_variation(reference: Codes, live: Codes) -> float:
    """Return half the summed differences of two samples' shares.

    Args:
        reference: Category codes from 0, shape [n].
        live: Codes by the same code book, shape [m].
    Returns:
        The distance in 0..1, 0 for equal shares; symmetric in its arguments.
    Raises:
        TooFewSamples: A window is empty.
    Source: Levin and Peres, Markov Chains and Mixing Times (2017), section 4.1.
    """
    if min(len(reference), len(live)) == 0:
        raise TooFewSamples(f"{len(reference)} reference and {len(live)} live rows, expected at least 1 each")
    width = int(max(reference.max(), live.max())) + 1
    shares = [np.bincount(codes, minlength=width) / len(codes) for codes in (reference, live)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def resampled(codes: Codes, members: Members) -> Numbers:
    """Return the distance between each window of one sample and the rest of it, shape [resamples]."""
    is_code = np.eye(int(codes.max()) + 1)[codes]
    inside = members[0].sum()
    counts = members.astype(np.float64) @ is_code
    gap = counts / inside - (is_code.sum(axis=0) - counts) / (len(codes) - inside)
    found: Numbers = np.abs(gap).sum(axis=1) / 2
    return found
