"""The Python that servers are measured on."""

import subprocess
from pathlib import Path

import pytest

from perf import interpreter


def test_an_environment_of_any_candidate_has_the_packages_of_this_one(tmp_path: Path) -> None:
    for number, name in enumerate(interpreter.candidates()):
        python = interpreter.make(tmp_path / str(number), name)
        asked = [str(python), "-c", "import sys, grpc, uvloop; print(sys.base_prefix, grpc.__file__)"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        assert Path(name).is_relative_to(said[0])
        assert Path(said[1]).exists()


def test_the_quickest_one_is_quicker_in_most_turns_whatever_pace_the_processor_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = {"plain": iter((0.4, 0.2, 0.4)), "optimised": iter((0.3, 0.3, 0.3))}  # twice the pace for one of them once
    monkeypatch.setattr(interpreter, "spent_s", lambda name: next(turns[name]))
    assert interpreter.quickest(turns, turns=3) == "optimised"


def test_where_there_is_one_only_nothing_is_timed() -> None:
    assert interpreter.quickest(["/no/such/python"]) == "/no/such/python"


def test_work_takes_time() -> None:
    assert interpreter.spent_s(interpreter.candidates()[0]) > 0
