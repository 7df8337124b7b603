"""What is learned of an engine's time, and how it is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.balance import MEMORY_S, PeakEwma

times = st.floats(1e-6, 10.0)


@given(st.lists(times, min_size=1, max_size=30), times)
def test_a_slow_answer_counts_in_full_at_once(before: list[float], slow: float) -> None:
    load = PeakEwma()
    for number, taken in enumerate(before):
        load.observe(taken, float(number))
    now = float(len(before))
    load.observe(slow, now)
    assert load.expected_s(0, now) >= slow * (1 - 1e-9)


@given(st.lists(times, min_size=1, max_size=30))
def test_what_is_expected_is_never_more_than_the_slowest_answer(taken: list[float]) -> None:
    load = PeakEwma()
    for number, seconds in enumerate(taken):
        load.observe(seconds, number * 0.1)
    assert load.expected_s(0, len(taken) * 0.1) <= max(taken) * (1 + 1e-9)


@given(times, st.integers(0, 1000), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_more_waiting_costs_more_and_time_heals(taken: float, waiting: int, soon: float, later: float) -> None:
    load = PeakEwma()
    load.observe(taken, 0.0)
    assert load.expected_s(waiting + 1, soon) > load.expected_s(waiting, soon)
    assert load.expected_s(waiting, soon + later) <= load.expected_s(waiting, soon)


def test_an_engine_that_stalled_is_asked_again_after_a_while() -> None:
    stalled, steady = PeakEwma(), PeakEwma()
    stalled.observe(0.1, 0.0)
    now = 0.0
    while stalled.expected_s(0, now) >= steady.expected_s(0, now):
        steady.observe(0.001, now)
        now += 0.5
        assert now < 10 * MEMORY_S
    assert now > MEMORY_S


def test_an_engine_of_which_nothing_is_known_is_tried() -> None:
    known = PeakEwma()
    known.observe(0.001, 1.0)
    assert PeakEwma().expected_s(0, 1.0) < known.expected_s(0, 1.0)
