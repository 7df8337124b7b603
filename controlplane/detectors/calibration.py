"""Do scores still come true as often as they used to? One number for scores with their outcomes."""

import numpy as np

from controlplane.detectors import TooFewSamples
from controlplane.detectors.resampling import Members, Numbers, chunks


def calibration_shift(scores: Numbers, hits: Numbers, live_scores: Numbers, live_hits: Numbers) -> float:
    """Return how far the errors of the scores have moved, at the score below which they moved most.

    Over all scores up to t, an error is what came true less what was said. The largest difference of
    its mean between two windows is 0 when both are equally (mis)calibrated, whatever the scores are.

    Args:
        scores: What was said, probabilities, shape [n]; ``live_scores`` shape [m].
        hits: What came true, 0 or 1, shape [n]; ``live_hits`` shape [m].
    Returns:
        The statistic in 0..1.
    Raises:
        TooFewSamples: A window is empty.
    Source: the two-sample form of the KS calibration error (Gupta et al., 2021; Arrieta-Ibarra et al., 2022).
    """
    if min(len(scores), len(live_scores)) == 0:
        raise TooFewSamples(f"{len(scores)} reference and {len(live_scores)} live rows, expected at least 1 each")
    joined = np.concatenate([scores, live_scores])
    errors = np.concatenate([hits, live_hits]) - joined
    is_live = np.arange(len(joined)) >= len(scores)
    return float(_gaps(joined, errors, is_live[None, :])[0])


def resampled(scores: Numbers, hits: Numbers, members: Members) -> Numbers:
    """Return the statistic between each window of one sample and the rest of it, shape [resamples]."""
    return np.concatenate([_gaps(scores, hits - scores, part) for part in chunks(members)])


def _gaps(scores: Numbers, errors: Numbers, members: Members) -> Numbers:
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    inside = members[0].sum()
    errors = errors[order]
    live = np.cumsum(members[:, order] * errors, axis=1)[:, ends]
    rest = np.cumsum(errors)[ends] - live
    found: Numbers = np.abs(live / inside - rest / (len(scores) - inside)).max(axis=1)
    return found
