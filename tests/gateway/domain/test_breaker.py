"""When an engine is left alone, and when it is let back."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.breaker import CONSECUTIVE, LONGEST_OPEN_S, OPEN_S, Breaker, State

MOVES = st.lists(st.tuples(st.sampled_from(["good", "bad", "probe good", "probe bad"]), st.floats(0, 5)), max_size=80)


def opened(at: float = 10.0) -> Breaker:
    breaker = Breaker()
    for _ in range(CONSECUTIVE):
        breaker.observe(False, at)
    return breaker


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = Breaker()
    for n in range(1, CONSECUTIVE + 1):
        assert breaker.state is State.CLOSED
        breaker.observe(False, n / 10)
    assert breaker.state is State.OPEN


def test_failures_that_are_most_of_a_second_open_it_though_never_five_in_a_row() -> None:
    breaker = Breaker()
    for i in range(60):
        breaker.observe(i % 3 == 0, 1.0 + i / 100)
    assert breaker.state is State.OPEN


@given(st.lists(st.booleans(), max_size=200))
def test_an_engine_that_never_fails_twice_running_stays(answers: list[bool]) -> None:
    breaker = Breaker()
    for i, is_good in enumerate(answers):
        breaker.observe(is_good or i % 2 == 0, i * 0.01)
    assert breaker.state is State.CLOSED


def test_one_probe_decides_and_each_failed_one_makes_the_next_wait_longer() -> None:
    breaker, now = opened(), 10.0
    for opening in range(1, 40):
        wait = min(OPEN_S * opening, LONGEST_OPEN_S)
        assert not breaker.wants_probe(now + wait - 0.01)
        now += wait
        assert breaker.wants_probe(now)
        breaker.probing()
        assert not breaker.wants_probe(now)
        breaker.probed(False, now)
        assert breaker.state is State.OPEN
    now += LONGEST_OPEN_S
    breaker.probing()
    breaker.probed(True, now)
    assert (breaker.state, breaker.openings) == (State.CLOSED, 0)


def test_calls_that_end_while_it_is_open_do_not_close_it() -> None:
    breaker = opened()
    for _ in range(100):
        breaker.observe(True, 10.5)
    assert breaker.state is State.OPEN


@given(MOVES)
def test_it_closes_by_a_good_probe_only(moves: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for move, pause in moves:
        now += pause
        before = breaker.state
        if move in ("good", "bad"):
            breaker.observe(move == "good", now)
        elif breaker.wants_probe(now):
            breaker.probing()
            breaker.probed(move == "probe good", now)
        if before is State.OPEN and breaker.state is State.CLOSED:
            assert move == "probe good"
