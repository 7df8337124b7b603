"""What the gateway learns of an engine's time."""

import random

from gateway.domain.admission import ServiceTime, can_finish


def test_the_estimate_settles_near_the_90th_percentile() -> None:
    draw = random.Random(7)
    times = [draw.expovariate(1 / 1000) for _ in range(20_000)]
    learned = ServiceTime()
    tail = []
    for taken in times:
        learned.observe(taken)
        tail.append(learned.estimate_us)
    exact = sorted(times)[18_000]
    assert 0.7 * exact < sum(tail[-5000:]) / 5000 < 1.3 * exact


def test_a_slow_spell_cannot_refuse_for_ever() -> None:
    learned = ServiceTime()
    for _ in range(100):
        learned.observe(1e6)
    refusals = 0
    while not can_finish(10_000, learned.estimate_us):
        learned.decay()
        refusals += 1
        assert refusals < 1_000


def test_no_time_left_is_never_enough() -> None:
    assert not can_finish(0, 0)
    assert not can_finish(-5, 0)
