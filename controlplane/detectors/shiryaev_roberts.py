"""Sudden changes, row by row: evidence that grows with every row unlike those before it.

Each row's rank among the rows before it is uniform as long as nothing changes (a conformal p-value).
Bets against that earn nothing on average; a Shiryaev-Roberts sum of them lets the change begin at
any row. Its expectation after N unchanged rows is at most N, so by Doob's inequality the chance
that it ever reaches N/a within N rows is at most a, whatever the columns hold.

Sources: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2nd ed. (2022), chapter 8;
Shin, Ramdas, Rinaldo, E-detectors (2023).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors.resampling import Numbers

# Bets k * p**(k-1), on the very unlikely and on slow shifts, each of low values, high values, both tails, the middle.
POWERS = np.array([0.15, 0.5, 0.8])
SHIFTS = np.array([-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0])  # bets on normal scores moved, in deviations
SPREADS = np.array([0.5, 0.63, 0.8, 1.25, 1.6, 2.0])  # bets on normal scores with so many times the deviation
BETS = 4 * len(POWERS) + len(SHIFTS) + len(SPREADS)
Bets = Callable[[Numbers, Numbers, Numbers], Numbers]  # rows before, rows, their ranks: see ``error_rate.bets``
CEILING = 1e200
BLOCK = 256  # rows ranked together: the cost of ranking grows with their square
STRETCHES = 40  # of a reference, whose means say whether rows depend on their order
MOST_TOGETHER = 2.0  # times the variance that means of independent rows have
MOST = 10_000  # rows remembered a column: what a rank is read from, precise to about 1/sqrt(MOST)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much speaks for a change, column by column.

    Attributes:
        bags: Each column's rows so far, sorted, shape [columns, rows].
        sums: Shiryaev-Roberts sums, shape [columns, bets].
    """

    bags: Numbers
    sums: Numbers

    @classmethod
    def begin(cls, reference: Numbers, bets: int = BETS) -> "Evidence":
        """Start after a reference, shape [rows, columns], with so many bets a column."""
        return cls(np.sort(reference.T, axis=1)[:, -MOST:], np.zeros((reference.shape[1], bets)))

    @property
    def logs(self) -> Numbers:
        """The evidence for each column, the mean over its bets, in nats."""
        with np.errstate(divide="ignore"):
            found: Numbers = np.log(self.sums.mean(axis=1))
        return found


def limit(columns: int, chance: float, rows: float) -> float:
    """Return the evidence, in nats, that some column reaches with at most ``chance`` within ``rows`` unchanged rows."""
    if not 0 < chance < 1 or columns < 1 or rows < 1:
        raise ValueError(f"columns is {columns}, chance {chance}, rows {rows}, expected 1.., 0..1, 1..")
    return math.log(columns * rows / chance)


def by_rank(_: Numbers, __: Numbers, ranks: Numbers) -> Numbers:
    """Bet on what ranks alone say, whatever a column holds; shape [rows, columns, BETS]."""
    return _bets(ranks)


def follow(evidence: Evidence, rows: Numbers, seed: int, bets: Bets = by_rank) -> tuple[Evidence, Numbers]:
    """Take rows in their order, shape [rows, columns]; return the evidence after them, and after each of them.

    Args:
        seed: Breaks ties between equal values at random, which is what keeps ranks uniform.
        bets: Each bet's mean over a rank that is uniform must be 1, given the rows before.
    Returns:
        The new evidence, and its logs after every row, shape [rows, columns].
    """
    rng = np.random.default_rng(seed)
    bags, sums = evidence.bags, evidence.sums.copy()
    found = np.empty(rows.shape)
    for at in range(0, len(rows), BLOCK):
        part = rows[at : at + BLOCK]
        for i, bet in enumerate(bets(bags, part, _ranks(bags, part, rng)), at):
            sums += 1.0
            sums *= bet
            np.minimum(sums, CEILING, out=sums)
            found[i] = sums.mean(axis=1)
        room = MOST - bags.shape[1]
        if room > 0:
            bags = np.sort(np.concatenate([bags, part[:room].T], axis=1), axis=1)
    with np.errstate(divide="ignore"):
        return Evidence(bags, sums), np.log(found)


def joined(logs: Numbers, shares: Numbers) -> tuple[Numbers, Numbers]:
    """Put the evidence of columns together: the mean by their shares, which grows under no change as each does.

    No later than with each column held against its share of the chance, and sooner where several change at once.

    Args:
        logs: Evidence of each column after each row, shape [rows, columns].
        shares: How much of the stake is on each column, 0 or more, not all 0, shape [columns].
    Returns:
        The log of the mean, shape [rows], and what each column adds to it, shape [rows, columns].
    Source: the mean of e-detectors is one (Shin, Ramdas, Rinaldo, 2023).
    """
    with np.errstate(divide="ignore"):
        parts: Numbers = logs + np.log(shares / shares.sum())
    return np.logaddexp.reduce(parts, axis=1), parts


def restless(reference: Numbers, enough: float, seed: int) -> NDArray[np.bool_]:
    """Say which columns of a reference change all the time, in its own order: they would never be silent.

    Ranks are uniform only where rows may come in any order. A column whose second half already
    gathers most of the evidence that an alarm takes is not of that kind, nor is one whose neighbouring rows are alike:
    means of its stretches vary much more than those of independent rows.

    Args:
        reference: Rows in the order of time, shape [rows, columns].
        enough: The evidence of an alarm, in nats.
    """
    half = len(reference) // 2
    _, logs = follow(Evidence.begin(reference[:half]), reference[half:], seed)
    found: NDArray[np.bool_] = (logs.max(axis=0) > 0.75 * enough) | (_togetherness(reference, seed) > MOST_TOGETHER)
    return found


def _togetherness(rows: Numbers, seed: int) -> Numbers:
    """Return the variance of means of stretches over that of independent rows, by normal scores, shape [columns]."""
    length = len(rows) // STRETCHES
    if length < 2:
        return np.zeros(rows.shape[1])
    ties = np.random.default_rng(seed).random(rows.shape)
    places = np.lexsort((ties, rows), axis=0).argsort(axis=0)
    scores = _normal_scores((places + 0.5) / len(rows))
    means = scores[: STRETCHES * length].reshape(STRETCHES, length, -1).mean(axis=1)
    found: Numbers = length * means.var(axis=0, ddof=1) / scores.var(axis=0)
    return found


def _ranks(bags: Numbers, rows: Numbers, rng: np.random.Generator) -> Numbers:
    """Return each row's rank among the rows before it, in (0, 1), shape [rows, columns]."""
    n, columns = rows.shape
    before = np.tri(n, k=-1, dtype=np.bool_)
    ranks = np.empty(rows.shape)
    for j in range(columns):
        bag, new = bags[j], rows[:, j]
        less = np.searchsorted(bag, new, side="left").astype(np.float64)
        equal = np.searchsorted(bag, new, side="right") - less
        less += ((new[None, :] < new[:, None]) & before).sum(axis=1)
        equal += ((new[None, :] == new[:, None]) & before).sum(axis=1)
        ranks[:, j] = (less + rng.uniform(1e-9, 1, n) * (equal + 1)) / (len(bag) + np.arange(n) + 1)
    return ranks


def _bets(ranks: Numbers) -> Numbers:
    """Return what each bet multiplies its stake by, shape [rows, columns, BETS]; the mean over ranks is 1."""
    inner = np.clip(ranks, 1e-12, 1 - 1e-12)
    extreme = 2 * np.minimum(inner, 1 - inner)
    sides = np.stack([inner, 1 - inner, extreme, 1 - extreme], axis=-1)
    powers = POWERS * np.maximum(sides, 1e-12)[..., None] ** (POWERS - 1)
    scores = _normal_scores(inner)[..., None]
    shifts = np.exp(SHIFTS * scores - SHIFTS**2 / 2)
    spreads = np.exp(scores**2 / 2 * (1 - 1 / SPREADS**2)) / SPREADS
    return np.concatenate([powers.reshape(*ranks.shape, -1), shifts, spreads], axis=-1)


def _normal_scores(ranks: Numbers) -> Numbers:
    from scipy.special import ndtri  # takes long to import, and is not needed at start

    found: Numbers = ndtri(ranks)
    return found
