"""What the figures mean: percentiles, who is charged for a stall, what counts as an answer."""

import pytest

from perf.openloop import FALLBACK, LATE, OK, Load, Record, percentile


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([5.0], 50, 5.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.0),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 101)), 100, 100),
        ([3.0, 1.0, 2.0], 100, 3.0),
        ([0.0] * 98 + [7.0, 9.0], 99, 7.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], q: float, expected: float) -> None:
    assert percentile(values, q) == expected


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 99) is None


def test_a_stall_is_charged_to_every_call_that_was_due_in_it() -> None:
    """A server stalls for one second; a client that sent only after each answer would have seen one slow call."""
    record = Record()
    for number in range(100):
        due = number / 100
        # The generator was blocked too: everything went out, and was answered, at the end of the stall.
        record.end(record.begin(due, sent=1.0), 1.0, OK)
    found = record.summary(0.0, 2.0)
    assert found.p50_ms == pytest.approx(500)
    assert found.p99_ms == pytest.approx(990)
    assert found.lag_p99_ms == pytest.approx(990)


def test_a_call_without_an_answer_counts_as_long_as_it_was_waited_for() -> None:
    record = Record()
    for _ in range(9):
        record.end(record.begin(0.0, 0.0), 0.001, OK)
    record.end(record.begin(0.0, 0.0), 0.1, LATE)
    found = record.summary(0.0, 1.0)
    assert (found.p50_ms, found.max_ms, found.errors) == (1.0, 100.0, {LATE: 1})


def test_calls_due_in_the_warm_up_do_not_count() -> None:
    record = Record()
    record.end(record.begin(0.0, 0.0), 5.0, "INTERNAL")
    record.end(record.begin(1.0, 1.0), 1.002, OK)
    found = record.summary(1.0, 2.0)
    assert (found.calls, found.ok, found.errors, found.max_ms) == (1, 1, {}, 2.0)


def test_fallbacks_are_neither_errors_nor_goodput() -> None:
    record = Record()
    for outcome in (OK, FALLBACK, FALLBACK, "RESOURCE_EXHAUSTED"):
        record.end(record.begin(0.0, 0.0), 0.004, outcome)
    found = record.summary(0.0, 2.0)
    assert (found.ok, found.fallbacks, found.errors) == (1, 2, {"RESOURCE_EXHAUSTED": 1})
    assert found.answered_rps == 0.5
    assert found.shed_p99_ms == 4.0


@pytest.mark.parametrize("chosen", [{}, {"rate": 1.0, "streams": 1}], ids=["neither", "both"])
def test_a_load_is_open_or_closed(chosen: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected exactly one"):
        Load("127.0.0.1:1", 1.0, **chosen)  # type: ignore[arg-type]
