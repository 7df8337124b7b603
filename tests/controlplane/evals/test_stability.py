"""Population stability: nothing where nothing moved, and the field that moved is the one that says so."""

import random
from dataclasses import replace

import numpy as np

from controlplane.evals.stability import stability
from protos.contract.task import Field
from tests.tasks import TASK

TABLE = replace(
    TASK,
    fields=(Field("income", "number", False, True), Field("months", "integer", False, True)),
    template="income: {income}\nmonths: {months}",
)


def drawn(seed: int, income: float = 0.0, *, missing: float = 0.05) -> tuple[list[str], np.ndarray]:
    rng = random.Random(seed)
    texts = []
    for _ in range(1000):
        value = "" if rng.random() < missing else f"{rng.gauss(income, 1):.3f}"
        texts.append(f"income: {value}\nmonths: {rng.randrange(100)}")
    return texts, np.array([rng.random() for _ in texts])


def test_two_draws_of_the_same_population_are_stable() -> None:
    found = stability(TABLE, *drawn(1), *drawn(2))
    assert found["score"] < 0.05 and max(found["fields"].values()) < 0.05


def test_the_field_that_moved_is_named_and_the_others_are_not() -> None:
    found = stability(TABLE, *drawn(1), *drawn(2, income=1.0))
    assert found["fields"]["income"] > found["convention"] > 0.05 > found["fields"]["months"]


def test_values_that_went_missing_are_a_move() -> None:
    assert stability(TABLE, *drawn(1), *drawn(2, missing=0.6))["fields"]["income"] > 0.25
