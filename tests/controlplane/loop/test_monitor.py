"""What the monitor says of traffic made here, where it is known what changed and what did not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from controlplane.loop.frame import Frame
from controlplane.loop.monitor import MOST_WORTH, SUDDEN, Budget, Monitor, _worth

BUDGET = Budget(window=50, rate=0.05)


def frame(rng: np.random.Generator, rows: int, *, shift: float = 0.0, is_labelled: bool = True) -> Frame:
    vectors = rng.normal(size=(rows, 40)).astype(np.float32)
    vectors[:, 0] += shift
    score = rng.beta(2, 5, rows)
    hit = (rng.random(rows) < score).astype(float)
    unknown = np.full(rows, np.nan)
    return Frame(
        numbers={"amount": rng.lognormal(size=rows)},
        categories={"site": rng.choice([f"s{i}" for i in range(60)], rows)},
        vectors=vectors,
        score=score,
        decision=np.where(score > 0.5, "block", "allow"),
        confidence=np.maximum(score, 1 - score),
        hit=hit if is_labelled else unknown,
        correct=(hit == (score > 0.5)).astype(float) if is_labelled else unknown,
    )


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_a_reference_was_fitted_on_do_not_make_new_ones_look_strange(seed: int) -> None:
    """Axes and categories fitted on all of a reference would: its own rows lie closer to them than any to come."""
    rng = np.random.default_rng(seed)
    monitor = Monitor.learn(frame(rng, 200), BUDGET, seed)
    found = [monitor.read(window, i) for i, window in enumerate(frame(rng, 3000).windows(50))]
    assert [r.sudden_column for r in found if r.sudden_row is not None] == []


def test_a_shift_of_the_texts_stands_out_in_the_input_and_nowhere_else() -> None:
    rng = np.random.default_rng(5)
    monitor = Monitor.learn(frame(rng, 300), BUDGET, 0)
    found = monitor.read(frame(rng, 50, shift=4), 1)
    over = {r.signal for r in found.signals if r.is_over}
    assert "input" in over and over <= {"input", SUDDEN}
    assert found.performance is not None and found.performance.holds is True


def test_a_monitor_goes_on_from_what_was_kept_of_it() -> None:
    rng = np.random.default_rng(6)
    reference = frame(rng, 200)
    windows = list(frame(rng, 150).windows(50))
    monitor = Monitor.learn(reference, BUDGET, 0)
    whole = [monitor.read(window, i) for i, window in enumerate(windows)]
    again = Monitor.learn(reference, BUDGET, 0)
    for i, window in enumerate(windows):
        again = Monitor.restore(Frame.from_bytes(reference.to_bytes()), BUDGET, again.state())
        assert again.read(window, i) == whole[i]


def test_outcomes_that_come_later_add_their_signals_and_lose_no_evidence() -> None:
    rng = np.random.default_rng(7)
    reference = frame(rng, 200)
    blind = replace(reference, hit=np.full(200, np.nan), correct=np.full(200, np.nan))
    monitor = Monitor.learn(blind, BUDGET, 0)
    first = monitor.read(frame(rng, 50, is_labelled=False), 1)
    assert "error" not in {r.signal for r in first.signals} and first.performance is None
    before = monitor.evidence.sums.copy()
    seeing = monitor.with_outcomes(reference.hit, reference.correct, 0)
    assert np.array_equal(seeing.evidence.sums, before)
    assert {"error", "calibration"} <= set(seeing.nulls)


def test_outcomes_that_are_not_due_yet_are_no_reading_and_hold_up_no_other() -> None:
    rng = np.random.default_rng(8)
    window = frame(rng, 50)
    found = Monitor.learn(frame(rng, 200), BUDGET, 0).read(window, 1, window[:0])
    values = {reading.signal: reading.measurement for reading in found.signals}
    assert [values[name].sample for name in ("error", "calibration", "score")] == [0, 0, 50]
    assert [math.isnan(values[name].value) for name in ("error", "calibration", "score")] == [True, True, False]


@pytest.mark.parametrize(
    "p_value, windows", [(math.nan, 1), (0.5, 1), (0.009, 1), (2e-4, 1), (0.99e-4, 2), (0.99e-6, 3), (0.0, MOST_WORTH)]
)
def test_a_window_counts_for_as_many_as_would_be_as_unlikely_together(p_value: float, windows: int) -> None:
    assert _worth(p_value, 0.01) == windows
