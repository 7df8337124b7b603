"""Faults are refused without the flag, and wrong on purpose with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.worker.faults import CONFIDENT, Faults, invert
from protos import engine_pb2


def test_faults_are_refused_without_the_flag() -> None:
    faults = Faults(allowed=False)
    assert "--allow-faults" in faults.inject("b", engine_pb2.FAULT_KIND_ERROR, 0)
    assert not faults.is_failing("b")


def test_a_fault_touches_its_bundle_only_until_it_is_healed() -> None:
    faults = Faults(allowed=True)
    assert faults.inject("b", engine_pb2.FAULT_KIND_DELAY, 500_000) == ""
    assert (faults.delay_s("b"), faults.delay_s("c")) == (0.5, 0.0)
    assert faults.inject("b", engine_pb2.FAULT_KIND_NONE, 0) == ""
    assert faults.delay_s("b") == 0.0
    assert "expected one of" in faults.inject("b", 99, 0)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_an_inverted_answer_is_confident_in_another_label(weights: list[float]) -> None:
    row = [weight / sum(weights) for weight in weights]
    wrong = invert(row)
    assert wrong.index(max(wrong)) != row.index(max(row))
    assert max(wrong) >= CONFIDENT - 1e-9
    assert sum(wrong) == pytest.approx(1.0)
    assert min(wrong) >= 0


def test_a_certain_answer_can_be_inverted() -> None:
    assert invert([0.0, 1.0]) == [1.0, 0.0]
