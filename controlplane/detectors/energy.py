"""How far apart two samples of vectors are: one number for embeddings, or for a row's fields taken together."""

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Members, Numbers, chunks

Vectors = NDArray[np.float32]


def distances(first: Vectors, second: Vectors) -> Vectors:
    """Return Euclidean distances, shape [len(first), len(second)]."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2 * (first @ second.T)
    found: Vectors = np.sqrt(np.maximum(squares, 0))
    return found


def energy_distance(reference: Vectors, live: Vectors, within_reference: float | None = None) -> float:
    """Return twice the mean distance between samples less the mean distances within them.

    Args:
        reference: Rows from the window the engine was approved on, shape [n, d].
        live: Rows from the present window, shape [m, d].
        within_reference: The mean distance within the reference, where it is known already.
    Returns:
        An unbiased estimate, around 0 (and below it, half of the time) for samples of one distribution,
        above 0 for any two different ones.
    Raises:
        TooFewSamples: A window holds fewer than two rows.
    Source: Székely and Rizzo, Energy statistics (2013); the U-statistic.
    """
    if min(len(reference), len(live)) < 2:
        raise TooFewSamples(f"{len(reference)} reference and {len(live)} live rows, expected at least 2 each")
    if within_reference is None:
        within_reference = mean_within(reference)
    return float(2 * distances(reference, live).mean(dtype=np.float64) - within_reference - mean_within(live))


def mean_within(rows: Vectors) -> float:
    """Return the mean distance between two different rows."""
    between = distances(rows, rows)
    np.fill_diagonal(between, 0.0)
    return float(between.sum(dtype=np.float64) / (len(rows) * (len(rows) - 1)))


def resampled(rows: Vectors, members: Members) -> Numbers:
    """Return the distance between each window of one sample and the rest of it, shape [resamples]."""
    between = distances(rows, rows)
    np.fill_diagonal(between, 0.0)
    n, inside = len(rows), int(members[0].sum())
    outside = n - inside
    sums = between.sum(axis=1, dtype=np.float64)
    found = []
    for part in chunks(members):
        within = ((part.astype(np.float32) @ between) * part).sum(axis=1, dtype=np.float64)
        touching = part.astype(np.float64) @ sums
        cross = touching - within
        rest = sums.sum() - touching - cross
        found.append(
            2 * cross / (inside * outside) - within / (inside * (inside - 1)) - rest / (outside * (outside - 1))
        )
    return np.concatenate(found)
