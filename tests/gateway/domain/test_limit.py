"""A limit that follows latency, driven by engines that are queues on paper."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.limit import LEAST, FixedLimit, GradientLimit


def drive(limit: GradientLimit, offered: int, seconds: float, *, servers: int, service_s: float, begin: float) -> float:
    """Let ``offered`` callers, as many as the limit takes, share an engine that serves ``servers`` at once.

    Returns the time at the end.
    """
    draw = random.Random(3)
    now = begin
    while now < begin + seconds:
        limit.in_flight = min(offered, limit.limit)
        taken = service_s * max(1.0, limit.in_flight / servers) * draw.uniform(0.9, 1.1)
        for _ in range(limit.in_flight):
            limit.observe(taken, now)
        now += taken
    return now


def test_the_limit_settles_where_the_engine_is_busy_and_not_where_it_queues() -> None:
    limit = GradientLimit(1_000)
    now = drive(limit, 2, 5.0, servers=16, service_s=0.005, begin=0.0)
    drive(limit, 1_000, 30.0, servers=16, service_s=0.005, begin=now)
    assert 16 <= limit.limit <= 4 * 16


def test_an_engine_ten_times_slower_shrinks_the_limit_within_a_second_and_its_recovery_brings_it_back() -> None:
    limit = GradientLimit(1_000)
    now = drive(limit, 2, 5.0, servers=16, service_s=0.005, begin=0.0)
    now = drive(limit, 1_000, 20.0, servers=16, service_s=0.005, begin=now)
    before = limit.limit
    now = drive(limit, 1_000, 3.0, servers=16, service_s=0.05, begin=now)
    assert limit.limit <= before / 2
    drive(limit, 1_000, 20.0, servers=16, service_s=0.005, begin=now)
    assert limit.limit >= 0.8 * before


def test_little_traffic_moves_the_limit_nowhere() -> None:
    limit = GradientLimit(1_000)
    before = limit.limit
    drive(limit, 3, 60.0, servers=1, service_s=0.02, begin=0.0)
    assert limit.limit == before


def test_an_engine_that_became_slower_for_good_is_the_new_baseline_after_a_minute() -> None:
    limit = GradientLimit(1_000)
    now = drive(limit, 2, 5.0, servers=16, service_s=0.005, begin=0.0)
    now = drive(limit, 1_000, 70.0, servers=16, service_s=0.05, begin=now)
    assert limit.baseline_s > 0.04


@given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 500), st.floats(0, 1)), max_size=300), st.integers(1, 200))
def test_the_limit_stays_between_its_bounds_whatever_it_is_told(
    told: list[tuple[float, int, float]], most: int
) -> None:
    limit = GradientLimit(most)
    now = 0.0
    for taken, in_flight, pause in told:
        now += pause
        limit.in_flight = in_flight
        limit.observe(taken, now)
        assert min(LEAST, most) <= limit.limit <= most
        assert limit.has_room() == (in_flight < limit.limit)


@pytest.mark.parametrize("limit", [FixedLimit(3), GradientLimit(3)], ids=["fixed", "gradient"])
def test_there_is_room_for_as_many_as_the_limit_says(limit: FixedLimit | GradientLimit) -> None:
    rooms = []
    for limit.in_flight in range(5):
        rooms.append(limit.has_room())
    assert rooms == [True, True, True, False, False]
