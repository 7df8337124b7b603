"""Merging sketches is as good as having seen everything; a million rows cost kilobytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.loop.sketches import KLL_K, WindowSketch
from protos import observe_pb2

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
DECISIONS = ("allow", "block", "refer")


def fill(sketch: WindowSketch, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, list[str], list[str]]:
    scores = rng.beta(rng.uniform(0.5, 3), 2, rows)
    decisions = rng.choice(DECISIONS, rows, p=[0.9, 0.08, 0.02]).tolist()
    callers = [f"{c:x}" for c in rng.integers(0, 5000, rows)]
    sketch.add(rows, {"score": scores}, {"decision": decisions}, callers)
    return scores, decisions, callers


def kept(sketch: WindowSketch) -> WindowSketch:
    return WindowSketch(observe_pb2.SketchWindow.FromString(sketch.to_message().SerializeToString()))


@given(st.integers(0, 2**31), st.lists(st.integers(0, 4000), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None, derandomize=True)  # what a sketch promises, it promises nearly always
def test_merged_parts_say_what_the_whole_says(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    merged = WindowSketch()
    parts = []
    for rows in sizes:
        part = WindowSketch()
        parts.append(fill(part, rng, rows))
        part.add_vectors("kind", rng.normal(size=(3, 4)).astype(np.float32))
        merged.merge(kept(part))
    merged = kept(merged)
    scores = np.concatenate([part[0] for part in parts])
    decisions = [d for part in parts for d in part[1]]
    assert merged.rows == len(scores) and merged.moments.rows == 3 * len(sizes)
    if not len(scores):
        assert merged.quantiles("score") == []
        return
    for share, value in zip(SHARES, merged.quantiles("score"), strict=True):
        below, upto = (scores < value - 1e-6).mean(), (scores <= value + 1e-6).mean()
        assert below - 0.05 <= share <= upto + 0.05  # three standard errors of KLL at this k
    for decision, share in merged.shares("decision").items():
        assert share == pytest.approx(decisions.count(decision) / len(decisions))
    distinct = len({c for part in parts for c in part[2]})
    assert merged.callers() == pytest.approx(distinct, rel=0.1, abs=2)


def test_moments_of_parts_are_the_moments_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(2, 3, size=(500, 6)).astype(np.float32)
    first, second = WindowSketch(), WindowSketch()
    first.add_vectors("kind", rows[:100])
    second.add_vectors("kind", rows[100:])
    first.merge(second)
    mean, deviation = first.mean_vector()
    assert mean == pytest.approx(rows.mean(axis=0), abs=1e-4) and deviation == pytest.approx(rows.std(axis=0), abs=1e-3)
    first.add_vectors("another", rows[:5])
    assert (first.moments.embedding, first.moments.rows) == ("another", 5)


def test_a_window_of_a_million_requests_costs_kilobytes() -> None:
    rng, sketch = np.random.default_rng(1), WindowSketch()
    scores = rng.random(1_000_000)
    sketch.add(len(scores), {"score": scores}, {"decision": ["allow"] * 10}, (f"{c:x}" for c in range(20_000)))
    sketch.add_vectors("kind", rng.normal(size=(10, 384)).astype(np.float32))
    assert sketch.to_message().ByteSize() < 16_000
    assert KLL_K == 200 and sketch.quantiles("score", [0.5])[0] == pytest.approx(0.5, abs=0.03)
