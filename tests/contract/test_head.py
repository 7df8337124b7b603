"""A head gives probabilities in the order of the logits it reads, and one that would not is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.contract.fields import FieldInvalid
from protos.contract.head import Curve, Head
from tests.tasks import TASK

THREE = replace(
    TASK, labels=("a", "b", "c"), cost=((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)), score_label="c", decisions=("yes", "no")
)
CURVES = tuple(Curve((0.1, 0.5, 0.9), (0.05, y, 0.95)) for y in (0.3, 0.5, 0.6))
HEADS = {
    "temperature": Head(2.0),
    "platt": Head(1.5, platt=((0.5, 0.1), (2.0, -1.0), (1.0, 0.0))),
    "isotonic": Head(1.0, isotonic=CURVES),
    "offsets": Head(1.0, offsets=(0.0, 0.1)),
}
logits = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=5).map(np.array)


@pytest.mark.parametrize("name", list(HEADS))
@given(given=logits)
def test_probabilities_are_positive_and_sum_to_one(name: str, given: np.ndarray) -> None:
    found = HEADS[name].probabilities(given)
    assert found.shape == given.shape and (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(HEADS[name].probabilities(given + 7.0), found, atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
@given(given=logits)
def test_a_row_alone_is_calibrated_as_among_others(name: str, given: np.ndarray) -> None:
    head = HEADS[name]
    for row, expected in zip(given.tolist(), head.probabilities(given).tolist(), strict=True):
        assert head.row(row) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("name", list(HEADS))
def test_a_head_is_read_as_it_was_written(name: str) -> None:
    head = replace(HEADS[name], fit={"data": "sha256:" + "0" * 64, "rows": 10})
    assert Head.from_bytes(head.to_bytes(), THREE) == head
    assert head.method == name or name == "offsets"


@given(given=logits)
def test_without_offsets_the_cost_matrix_decides_and_with_them_a_dearer_decision_is_taken_less(
    given: np.ndarray,
) -> None:
    plain, dearer = Head(), Head(offsets=(0.0, 0.3))
    rows = plain.probabilities(given)
    for row in rows.tolist():
        assert plain.decide(THREE, row) == THREE.decide(row)
        assert dearer.decide(THREE, row) <= plain.decide(THREE, row)
    assert dearer.decisions(THREE, rows).tolist() == [dearer.decide(THREE, row) for row in rows.tolist()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "head.temperature is 0, expected a number from 0.01"),
        ({"schema": "interlock.head/9"}, "head.schema"),
        ({"platt": [[1, 0], [1, 0]]}, "head.platt has 2 entries, expected none or 3"),
        ({"platt": [[1, 0], [-1, 0], [1, 0]]}, r"head.platt\[1\] is -1"),
        ({"platt": [[1, 0], [0, 0], [1, 0]]}, r"head.platt\[1\] has slope 0"),
        ({"isotonic": [{"x": [0, 1], "y": [0, 1]}] * 2}, "head.isotonic has 2 entries"),
        ({"isotonic": [{"x": [0, 1], "y": [1, 0]}] * 3}, r"head.isotonic\[0\].y falls"),
        ({"isotonic": [{"x": [0, 0], "y": [0, 1]}] * 3}, r"head.isotonic\[0\].x does not rise"),
        ({"isotonic": [{"x": [0, 1], "y": [0, 1.5]}] * 3}, "y is 1.5, expected a number from 0 to 1"),
        ({"isotonic": [{"x": [0, 1, 1], "y": [0, 1]}] * 3}, "3 and 2 knots"),
        ({"isotonic": [{"x": [0, 1], "y": [0, 1]}] * 3, "platt": [[1, 0]] * 3}, "at most one of them"),
        ({"offsets": [0.0]}, "head.offsets has 1 entries, expected none or 2"),
        ({"offsets": [0.0, 7]}, "head.offsets"),
        ({"surprise": 1}, "surprise"),
        ({"fit": {"data": "x"}}, "head.fit.data"),
    ],
)
def test_a_head_that_would_mislead_is_refused(change: dict[str, Any], message: str) -> None:
    value = json.loads(Head().to_bytes()) | change
    with pytest.raises((FieldInvalid, ValueError), match=message):
        Head.from_bytes(json.dumps(value).encode(), THREE)
    with pytest.raises(FieldInvalid, match="head.json"):
        Head.from_bytes(b"[]", THREE)
