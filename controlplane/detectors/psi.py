"""The population stability index, as risk teams compute it: kept for comparison, judged by a fixed number."""

import numpy as np

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Numbers
from controlplane.detectors.total_variation import Codes

CONVENTION = 0.25  # "significant change" by convention; not a test, it ignores the sizes of the samples
BINS = 10


def population_stability_index(reference: Codes, live: Codes) -> float:
    """Measure how far a live histogram has moved from the reference one.

    Args:
        reference: Bin or category of each row, from 0, shape [n].
        live: The same by the same bins, shape [m].
    Returns:
        The index in nats, 0 for identical shares; symmetric in its arguments.
    Raises:
        TooFewSamples: A window is empty, so the answer would be an artefact of smoothing.
    Source: symmetrised Kullback-Leibler divergence (Jeffreys, 1946); empty bins count half a row.
    """
    if min(len(reference), len(live)) == 0:
        raise TooFewSamples(f"{len(reference)} reference and {len(live)} live rows, expected at least 1 each")
    width = int(max(reference.max(), live.max())) + 1
    first, second = (np.maximum(np.bincount(codes, minlength=width), 0.5) / len(codes) for codes in (reference, live))
    return float(((second - first) * np.log(second / first)).sum())


def decile_edges(values: Numbers) -> Numbers:
    """Return the inner edges of equally filled bins, for ``np.searchsorted``; fewer where values repeat."""
    return np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
