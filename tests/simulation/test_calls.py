"""Calls end once, in time; what is taken is given back; nothing aside is felt. INTERLOCK_SEEDS plays more of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.serving import recording
from gateway.serving.deadlines import Deadlines
from gateway.serving.gate import Gate
from protos import decide_pb2
from tests.simulation.calls import InvariantBroken, play, play_twice

SEEDS = int(os.environ.get("INTERLOCK_SEEDS", "20"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def test_no_seed_loses_a_call_or_a_place_or_lets_callers_feel_the_shadow() -> None:
    answers = 0
    for seed in range(SEEDS):
        run = play_twice(seed)
        answers += sum(ended.answer is not None and not ended.answer.fallback for ended in run.ended)
    assert answers > 10 * SEEDS  # or nothing would have been tried


def lost_places(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gate, "leave", lambda self, taken_s: None)


def no_deadlines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "add", lambda self, future, when: None)


def everything_recorded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recording, "_declared", lambda task, given: decide_pb2.Input.FromString(given.raw))


@pytest.mark.parametrize(
    ("mistake", "invariant"), [(lost_places, "4: "), (no_deadlines, "3: "), (everything_recorded, "7: ")]
)
def test_a_mistake_in_the_request_path_is_caught(mistake: object, invariant: str, tmp_path: Path) -> None:
    """A check that cannot fail proves nothing."""
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)  # type: ignore[operator]
        with pytest.raises(InvariantBroken, match=rf"(?s)seed \d+: {invariant}.*replay: python -m"):
            for seed in range(20):
                (tmp_path / str(seed)).mkdir()
                play(seed, tmp_path / str(seed))
