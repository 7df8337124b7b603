import math

import numpy as np
import pytest

from controlplane.detectors.shiryaev_roberts import BETS, Evidence, _bets, follow, joined, limit, restless


def test_every_bet_is_fair_on_uniform_ranks() -> None:
    fine = np.geomspace(1e-12, 0.25, 20_000)  # close to 0, to the middle and to 1, where some bet grows without bound
    ranks = np.concatenate([fine, 0.5 - fine[-2::-1], 0.5 + fine, 1 - fine[-2::-1]])
    earned = np.trapezoid(_bets(ranks[:, None])[:, 0], ranks, axis=0)
    # What is closer than 1e-12 is not in the grid: 1e-12 ** 0.15 of the boldest bet.
    assert earned == pytest.approx(np.ones(BETS), abs=0.03) and earned.max() < 1.001


@pytest.mark.parametrize("draw", ["normal", "heavy-tailed", "two-values", "constant"])
def test_unchanged_rows_raise_alarms_no_more_often_than_stated(draw: str) -> None:
    rng = np.random.default_rng(5)
    shapes = {
        "normal": lambda size: rng.normal(size=size),
        "heavy-tailed": lambda size: rng.standard_cauchy(size=size),
        "two-values": lambda size: (rng.random(size) < 0.02).astype(float),
        "constant": lambda size: np.zeros(size),
    }
    rows, chance = 1000, 0.1
    columns = shapes[draw]((200 + rows, 150))  # 150 streams of one column each
    _, logs = follow(Evidence.begin(columns[:200]), columns[200:], 1)
    alarmed = (logs > limit(1, chance, rows)).any(axis=0).mean()
    assert alarmed <= chance + 3 * math.sqrt(chance * (1 - chance) / 150)


@pytest.mark.parametrize(
    "change, most",
    [
        pytest.param(lambda rng: rng.normal(8, 1, 300), 10, id="values-never-seen"),
        pytest.param(lambda rng: rng.normal(1.5, 1, 300), 60, id="a-shift"),
        pytest.param(lambda rng: rng.normal(0, 3, 300), 90, id="more-spread"),
        pytest.param(lambda rng: rng.normal(0, 0.1, 300), 60, id="less-spread"),
        pytest.param(lambda rng: rng.normal(0, 0.75, 600), 300, id="a-little-less-spread"),
        pytest.param(lambda rng: rng.normal(0, 1.4, 600), 105, id="a-little-more-spread"),
    ],
)
def test_a_sudden_change_is_found_within_rows(change: object, most: int) -> None:
    rng = np.random.default_rng(6)
    before = rng.normal(size=1500)
    rows = np.concatenate([before[500:], change(rng)])[:, None]  # type: ignore[operator]
    _, logs = follow(Evidence.begin(before[:500, None]), rows, 2)
    over = np.flatnonzero(logs[:, 0] > limit(10, 0.02, 100_000))
    assert 1000 <= over[0] < 1000 + most


@pytest.mark.parametrize("changed", [1, 4], ids=["one-column", "four-columns"])
def test_columns_together_are_found_no_later_than_each_by_its_share_of_the_chance(changed: int) -> None:
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(900, 5))
    rows[600:, :changed] += 1.2
    _, logs = follow(Evidence.begin(rows[:400]), rows[400:], 2)
    together, parts = joined(logs, np.array([1.0, 1, 1, 1, 0]))
    first = int(np.flatnonzero(together > limit(1, 0.02, 100_000))[0])
    apart = int(np.flatnonzero((logs[:, :4] > limit(4, 0.02, 100_000)).any(axis=1))[0])
    gained = together[apart] - (logs[apart, :4].max() - math.log(4))
    assert first <= apart and gained > 0
    assert parts[:, 4].max() == -np.inf, "nothing is staked on a column without a share"


def test_following_in_parts_remembers_as_following_at_once() -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(600, 2))
    begun = Evidence.begin(rows[:100])
    half, _ = follow(begun, rows[100:356], 3)
    whole, _ = follow(begun, rows[100:356], 3)
    assert np.array_equal(half.sums, whole.sums) and np.array_equal(half.bags, np.sort(rows[:356].T, axis=1))
    assert follow(half, rows[356:], 4)[0].bags.shape == (2, 600)


@pytest.mark.parametrize("alike", ["neighbours", "season"])
def test_columns_whose_neighbouring_rows_are_alike_are_left_to_windows(alike: str) -> None:
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(1000, 20))
    if alike == "season":
        rows += 0.6 * np.sin(2 * np.pi * (np.arange(1000)[:, None] / 100 + rng.random(20)))
    for row in range(1, 1000 if alike == "neighbours" else 1):
        rows[row] = 0.6 * rows[row - 1] + 0.8 * rows[row]
    assert restless(rows, limit(20, 0.02, 100_000), 0).mean() >= 0.9
    shuffled = rng.permutation(rows)
    assert not restless(shuffled, limit(20, 0.02, 100_000), 0).any()


def test_columns_that_follow_on_themselves_are_told_from_those_that_do_not() -> None:
    rng = np.random.default_rng(8)
    walk = np.cumsum(rng.normal(size=1000))
    assert restless(np.stack([walk, rng.normal(size=1000)], axis=1), limit(2, 0.02, 100_000), 0).tolist() == [
        True,
        False,
    ]
