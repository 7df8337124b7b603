"""A burst passes, a standing queue does not."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.codel import INTERVAL_S, SLOUGH_S, TARGET_S, CoDel


def told(codel: CoDel, waits: list[float], *, begin: float, step_s: float = 0.01) -> tuple[list[float | None], float]:
    now, found = begin, []
    for wait in waits:
        found.append(codel.most_wait_s(wait, now))
        now += step_s
    return found, now


def test_nobody_has_to_go_while_the_line_empties_once_an_interval() -> None:
    found, _ = told(CoDel(), ([0.08] * 9 + [TARGET_S / 2]) * 20, begin=5.0)
    assert set(found) == {None}


def test_a_line_that_stands_for_an_interval_sheds_until_it_does_not() -> None:
    codel = CoDel()
    found, now = told(codel, [0.05] * 30, begin=5.0)
    first = found.index(SLOUGH_S)
    assert INTERVAL_S <= first * 0.01 <= 2 * INTERVAL_S
    assert set(found[first:]) == {SLOUGH_S}
    found, _ = told(codel, [0.0] * 30, begin=now)
    assert found[-1] is None


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=200))
def test_short_waits_never_have_to_go(told: list[tuple[float, float]]) -> None:
    codel, now = CoDel(), 1.0
    for wait, pause in told:
        now += pause
        most = codel.most_wait_s(wait, now)
        assert most is None or most >= 2 * TARGET_S
    if told and max(wait for wait, _ in told) <= TARGET_S:
        assert not codel.is_standing
