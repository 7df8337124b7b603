"""Bets on how often outcomes come wrong: fair, close to the best bet there is, and no wilder than they say."""

import math

import numpy as np
import pytest

from controlplane.detectors import error_rate
from controlplane.detectors.shiryaev_roberts import Evidence, follow, limit

BETS = len(error_rate.ODDS)


def followed(reference: np.ndarray, rows: np.ndarray, seed: int = 1) -> np.ndarray:
    evidence = Evidence.begin(reference, BETS)
    return follow(evidence, rows, seed, error_rate.bets)[1]


@pytest.mark.parametrize("wrong", [0, 1, 52, 199, 200])
def test_every_bet_is_fair_on_uniform_ranks_whatever_came_before(wrong: int) -> None:
    bag = np.r_[np.zeros(200 - wrong), np.ones(wrong)][None, :]
    ranks = (np.arange(100_000) + 0.5) / 100_000
    for said in (0.0, 1.0):
        earned = [error_rate.bets(bag, np.array([[said]]), np.array([[rank]]))[0, 0] for rank in ranks[::50]]
        assert np.mean(earned, axis=0) == pytest.approx(np.ones(BETS), abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 1.0])
def test_unchanged_outcomes_raise_alarms_no_more_often_than_stated(share: float) -> None:
    rows, chance = 1000, 0.1
    columns = (np.random.default_rng(3).random((200 + rows, 150)) < share).astype(float)
    alarmed = (followed(columns[:200], columns[200:]) > limit(1, chance, rows)).any(axis=0).mean()
    assert alarmed <= chance + 3 * math.sqrt(chance * (1 - chance) / 150)


@pytest.mark.parametrize("before, after", [(0.52, 0.73), (0.1, 0.25), (0.5, 0.2), (0.3, 0.9)])
def test_a_change_is_found_in_little_more_than_whoever_knew_both_shares_would_need(before: float, after: float) -> None:
    rng = np.random.default_rng(4)
    taken, needed = [], []
    for seed in range(20):
        reference = (rng.random(1000) < before).astype(float)
        rows = (rng.random(1500) < after).astype(float)
        enough = limit(1, 0.02, 100_000)
        over = followed(reference[:, None], rows[:, None], seed)[:, 0] > enough
        taken.append(int(np.argmax(over)) + 1)
        right = np.log((1 - after) / (1 - before))
        known = np.cumsum(np.where(rows > 0, math.log(after / before), right))
        needed.append(int(np.argmax(known > enough)) + 1)
    assert np.median(taken) <= 1.35 * np.median(needed)


def test_following_in_parts_remembers_as_following_at_once() -> None:
    rows = (np.random.default_rng(5).random((700, 1)) < 0.4).astype(float)
    half, _ = follow(Evidence.begin(rows[:100], BETS), rows[100:400], 3, error_rate.bets)
    assert half.bags.sum() == rows[:400].sum() and half.bags.shape == (1, 400)
