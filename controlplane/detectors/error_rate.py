"""Outcomes that come wrong more or less often, row by row: bets on a share, for ``shiryaev_roberts``.

Ties broken at random, the wrong ones are the highest ranks among all rows so far, so a bet that their share is another
is a density of ranks with one step, where they begin. It is fair, as its mean over uniform ranks is 1, and loses
nothing beside the ratio of likelihoods, as bets on the tails of a column with two values do.
"""

import numpy as np

from controlplane.detectors.resampling import Numbers

ODDS = np.array([0.25, 0.4, 0.63, 1.6, 2.5, 4.0])  # bets: the odds of a wrong one are so many times what they were


def bets(bags: Numbers, rows: Numbers, ranks: Numbers) -> Numbers:
    """Return what each bet multiplies its stake by.

    Args:
        bags: Rows before these, 0 right and 1 wrong, shape [columns, rows].
        rows: The new ones in their order, shape [rows, columns].
        ranks: Theirs among the rows before each, shape [rows, columns].
    Returns:
        Shape [rows, columns, bets].
    """
    before = np.arange(len(rows))[:, None] + bags.shape[1]
    wrong = bags.sum(axis=1) + np.cumsum(rows, axis=0) - rows
    share = ((wrong + 0.5) / (before + 1))[..., None]
    supposed = ODDS * share / (1 - share + ODDS * share)
    found: Numbers = np.where(ranks[..., None] > 1 - share, supposed / share, (1 - supposed) / (1 - share))
    return found
