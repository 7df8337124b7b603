"""The head that is fitted repairs what is wrong with a model's confidence, and invents nothing."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from controlplane.training.calibration import fit_head  # noqa: E402
from protos.contract.head import Head  # noqa: E402
from protos.contract.task import TaskSpec  # noqa: E402
from tests.tasks import TASK  # noqa: E402

DATA = "sha256:" + "0" * 64


def drawn(rows: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return honest logits of two labels and targets drawn by them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0.0, 2.0, rows)
    targets = (random.random(rows) < 1.0 / (1.0 + np.exp(-honest))).astype(int)
    return np.stack([np.zeros(rows), honest], axis=1), targets


def loss(head: Head, logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(head.probabilities(logits)[np.arange(len(targets)), targets]).mean())


@pytest.mark.parametrize(
    ("spoil", "method"),
    [
        (lambda z: z * 4.0, "temperature"),
        (lambda z: z * np.array([1.0, 1.0]) + np.array([0.0, 2.5]), "platt"),
        (lambda z: np.stack([z[:, 0], np.sign(z[:, 1]) * np.abs(z[:, 1]) ** 4 / 4 + 3.0], axis=1), "isotonic"),
    ],
    ids=["overconfident", "biased", "bent"],
)
def test_what_is_wrong_decides_which_calibration_is_chosen(spoil: object, method: str) -> None:
    logits, targets = drawn(1500)
    spoilt = spoil(logits)  # type: ignore[operator]
    head = fit_head(spoilt, targets, TASK, DATA)
    assert head.method == method
    fresh, truth = drawn(4000, seed=4)
    honest = loss(Head(), fresh, truth)
    assert loss(head, spoil(fresh), truth) < honest + 0.03 < loss(Head(), spoil(fresh), truth)  # type: ignore[operator]
    assert head.fit["data"] == DATA and head.fit["rows"] == 1500
    assert Head.from_bytes(head.to_bytes(), TASK) == head


def test_few_texts_give_a_temperature_and_the_cost_matrix() -> None:
    logits, targets = drawn(12)
    head = fit_head(logits, targets, TASK, DATA)
    assert (head.method, head.offsets) == ("temperature", ())


def test_honest_probabilities_keep_the_thresholds_of_the_cost_matrix() -> None:
    logits, targets = drawn(1500)
    assert fit_head(logits, targets, TASK, DATA).offsets == ()


def test_thresholds_move_where_no_calibration_can_repair_the_ranking() -> None:
    # Three labels, and a model that cannot tell "b" from "c": what it calls "b" is "c" where it costs.
    task: TaskSpec = replace(
        TASK,
        labels=("a", "b", "c"),
        cost=((0.0, 0.3), (0.0, 0.3), (1.0, 0.0)),
        score_label="c",
    )
    random = np.random.default_rng(5)
    targets = random.choice(3, 1200, p=[0.4, 0.3, 0.3])
    logits = random.normal(0, 0.3, (1200, 3))
    logits[np.arange(1200), targets] += 4.0
    half = (targets == 2) & (random.random(1200) < 0.5)
    logits[half] = logits[half][:, [0, 2, 1]]
    plain, fitted = Head(), fit_head(logits, targets, task, DATA)
    costs = np.asarray(task.cost)
    moved = costs[targets, fitted.decisions(task, fitted.probabilities(logits))].mean()
    assert moved <= costs[targets, plain.decisions(task, plain.probabilities(logits))].mean()


def test_the_same_texts_give_the_same_head() -> None:
    logits, targets = drawn(300)
    assert fit_head(logits, targets, TASK, DATA).to_bytes() == fit_head(logits, targets, TASK, DATA).to_bytes()
