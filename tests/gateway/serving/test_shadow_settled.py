"""A pair tells once, after the primary answered, whether the two disagreed; only then is its request recorded."""

from typing import Any

import pytest

from gateway.domain.decision import Decision
from gateway.serving.shadow import Pair
from protos import capture_pb2, engine_pb2


class Lane:
    def __init__(self) -> None:
        self.finished_pairs = 0
        self.causes: list[str] = []

    def finished(self, record: Any, count: Any) -> None:
        self.finished_pairs += 1

    def dropped(self, count: Any, cause: str) -> None:
        self.causes.append(cause)


class Task:
    labels = ("safe", "unsafe")
    decisions = ("allow", "block")


@pytest.mark.parametrize(
    "steps, told",
    [
        pytest.param(["primary", "same"], [False], id="agreed"),
        pytest.param(["primary", "other"], [True], id="disagreed"),
        pytest.param(["other", "primary"], [True], id="candidate-first"),
        pytest.param(["primary", "drop"], [False], id="dropped-later"),
        pytest.param(["drop", "primary"], [False], id="dropped-before"),
        pytest.param(["primary", "drop", "drop"], [False], id="dropped-twice"),
        pytest.param(["drop", "left"], [], id="nobody-answered"),
    ],
)
def test_it_is_told_once_and_only_of_an_answered_request(steps: list[str], told: list[bool]) -> None:
    lane, found = Lane(), []
    pair = Pair(lane, capture_pb2.ShadowPair(), Task(), 1_000, None)  # type: ignore[arg-type]
    for step in steps:
        match step:
            case "primary":
                pair.settled = found.append
                pair.primary_answered(Decision("d", 1, "b", 1, 0, "allow", 0.5))
            case "same" | "other":
                pair.candidate_answered(engine_pb2.Result(decision=int(step == "other")), 0)
            case "drop":
                pair.drop("shadow_late")
            case "left":
                pair.primary_left()
    assert found == told
