"""What the gateway learns of an engine's time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.admission import LEAST, MEMORY, FinishTime, FinishTimes

TIMES = st.floats(0, 1e8, allow_nan=False)


def learned_from(times: list[float]) -> FinishTime:
    learned = FinishTime()
    for taken in times:
        learned.observe(taken)
    return learned


@pytest.mark.parametrize(("share", "least"), [(0.5, 0.8), (0.9, 0.8), (0.95, 0.8), (0.99, 0.7)])
def test_quantiles_are_those_of_the_recent_answers(share: float, least: float) -> None:
    draw = random.Random(7)
    old = [draw.expovariate(1 / 50_000) for _ in range(2_000)]
    recent = [draw.expovariate(1 / 5_000) for _ in range(20 * MEMORY)]
    exact = sorted(recent)[int(share * len(recent))]
    assert least * exact < learned_from(old + recent).quantile_us(share) < exact / least


@given(st.lists(TIMES, min_size=1, max_size=60), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_higher_quantile_is_never_lower_and_all_are_in_range(times: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    learned = learned_from(times)
    assert 0 <= learned.quantile_us(low) <= learned.quantile_us(high) <= max(max(times) * 1.2, 60)


@given(st.lists(TIMES, max_size=LEAST - 1))
def test_nothing_is_refused_on_the_word_of_a_few_answers(times: list[float]) -> None:
    assert learned_from(times).admits(1, 0.0)


def test_a_slow_spell_cannot_refuse_for_ever_and_is_forgotten_after_some_answers() -> None:
    learned = learned_from([1e6] * 100)
    refusals = answers = 0
    while answers < 20:
        if learned.admits(100_000, 0.0):
            learned.observe(2_000)
            answers += 1
        else:
            refusals += 1
            assert refusals < 3_000
    assert learned.admit_us < 100_000


def test_budgets_that_are_always_too_short_are_tried_rarely_and_teach_nothing_wrong() -> None:
    learned = learned_from([20_000.0] * 100)
    tried = 0
    for second in range(1_000):
        if learned.admits(2_000, float(second)):
            tried += 1
            learned.gave_up(2_000)
        learned.observe(20_000.0)  # others have the time
    assert tried == 0
    for second in range(1_000, 2_000):  # alone
        if learned.admits(2_000, float(second)):
            tried += 1
            learned.gave_up(2_000)
    assert 1 <= tried <= 10
    assert 18_000 < learned.quantile_us(0.5) < 22_000


def test_while_an_engine_stands_still_one_call_at_a_time_waits_for_it_and_its_return_is_noticed() -> None:
    learned = learned_from([1_000.0] * MEMORY)
    waiting: list[int] = []  # when each gives up, in ms
    at_once = most = 0
    for ms in range(1_000):
        while waiting and waiting[0] <= ms:
            waiting.pop(0)
            learned.gave_up(98_000)
        if learned.admits(98_000, ms / 1_000):
            waiting.append(ms + 98)
        at_once = max(at_once, len(waiting))
        if ms > 300:
            most = max(most, len(waiting))
    assert (at_once <= 98 + 10, most) == (True, 1)
    admitted = 0
    for ms in range(1_100, 1_300):  # it answers again, in no time
        if learned.admits(98_000, ms / 1_000):
            admitted += 1
            learned.observe(1_000)
    assert admitted > 195


def test_a_silence_that_was_one_of_this_process_is_over_with_the_first_answer() -> None:
    learned = learned_from([1_000.0] * MEMORY)
    for _ in range(100):  # it stood still itself, and comes to the bells before the answers
        learned.gave_up(98_000)
    assert learned.is_silent
    assert learned.admits(98_000, 1.0)
    assert not learned.admits(98_000, 1.001)
    learned.observe(1_000)
    assert all(learned.admits(budget_us, 1.002) for budget_us in (3_000, 98_000))


def test_a_silence_lets_short_calls_try_too_in_the_end() -> None:
    learned = learned_from([50_000.0] * MEMORY)
    for _ in range(10):
        learned.gave_up(98_000)
    assert any(learned.admits(20_000, number / 100) for number in range(100))


def test_what_comes_after_many_surprises_is_learned_as_soon_as_ever() -> None:
    learned = learned_from([90_000.0] * MEMORY)
    for _ in range(100):
        while not learned.admits(50_000, 0.0):
            pass
        learned.observe(1_000)
        learned.gave_up(200_000)
    for _ in range(3 * MEMORY):
        learned.observe(5_000)
    assert 4_000 < learned.quantile_us(0.5) < 6_000


def test_a_call_that_gave_up_raises_the_estimate() -> None:
    learned = learned_from([1_000.0] * 100)
    before = learned.admit_us
    for _ in range(50):
        learned.gave_up(50_000)
        learned.gave_up(50_000)
        learned.observe(1_000)
    assert learned.admit_us > 40_000 > before


def test_large_inputs_are_judged_by_large_inputs() -> None:
    times = FinishTimes()
    for _ in range(100):
        times.of(100).observe(1_000)
        times.of(10_000).observe(80_000)
    assert times.of(120).admit_us < 1_300
    assert times.of(9_000).admit_us > 70_000
    assert times.of(1 << 30).admit_us == 0.0
    assert [size for size, _ in times.known()] == [127, 32767]
    assert all(times.of(size) is found for size, found in times.known())


def test_no_time_left_is_never_enough() -> None:
    assert not FinishTime().admits(0, 0.0)
    assert not FinishTime().admits(-5, 0.0)
