"""What is kept for ever holds no text of a caller's."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from controlplane.evals.judge import regressions
from controlplane.packs.example import Example
from controlplane.packs.registry import load_pack


def test_a_live_case_that_got_worse_is_counted_and_its_text_left_out() -> None:
    task = load_pack("brand-safety").task
    examples = [Example("what a caller sent", "safe", "live"), Example("a case of the pack", "safe", "home")]

    def answers(predicted: int, cost: float) -> Any:
        of = {"predicted": [predicted] * 2, "labels": [0, 0], "decisions": [predicted] * 2, "costs": [cost] * 2}
        return SimpleNamespace(answers=SimpleNamespace(**{name: np.array(value) for name, value in of.items()}))

    found = regressions(task, examples, answers(0, 0.0), answers(2, 0.4))
    assert found.share == 1.0 and {case.slice for case in found.worst} == {"live", "home"}
    texts = {case.slice: case.text for case in found.worst}
    assert texts["home"] == "a case of the pack" and "what a caller sent" not in texts["live"]
