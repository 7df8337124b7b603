"""What a model is worth, from what gateways captured."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import StepRefused
from controlplane.loop.holdback import model_value
from controlplane.loop.observe import observe
from tests.controlplane.loop.fixture import NAME, ZERO, World, outcome, world

PRIMARY, CANARY, HOLDBACK = 1, 3, 4
OTHER = "sha256:" + "f" * 64


def decided(found: World, arm: int, decision: str, truth: str, times: int, bundle: str = ZERO) -> list[Any]:
    """Make samples of one arm and their outcomes."""
    records = []
    for _ in range(times):
        record = found.sample("text", bundle=bundle, arm=arm)
        record.sample.answer.decision = decision
        records += [record, outcome(found.numbers["sample"], truth)]
    return records


def test_a_model_is_worth_what_the_units_it_never_saw_cost_more(tmp_path: Path) -> None:
    found = world(tmp_path)
    found.first_plan(ZERO)
    found.capture(
        decided(found, PRIMARY, "block", "unsafe", 150)
        + decided(found, PRIMARY, "allow", "safe", 150)
        + decided(found, HOLDBACK, "allow", "unsafe", 100)
        + decided(found, HOLDBACK, "allow", "safe", 100)
        # Neither a canary's decisions nor another bundle's say anything of the primary.
        + decided(found, CANARY, "allow", "unsafe", 50)
        + decided(found, PRIMARY, "allow", "unsafe", 50, bundle=OTHER)
    )
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        value = model_value(unit, found.deployment, NAME)
    assert (value.bundle, value.with_model.sample, value.without_model.sample) == (ZERO, 300, 200)
    assert (value.with_model.value, value.without_model.value) == (0.0, 0.5)
    assert value.saved.value == 0.5
    assert 0 < value.saved.lower < 0.5 < value.saved.upper


def test_without_a_holdback_nothing_is_claimed(tmp_path: Path) -> None:
    found = world(tmp_path)
    with found.deployment.store.reading() as unit, pytest.raises(StepRefused, match="has no plan"):
        model_value(unit, found.deployment, NAME)
    found.first_plan(ZERO)
    found.capture(decided(found, PRIMARY, "block", "unsafe", 20))
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        value = model_value(unit, found.deployment, NAME)
    assert (value.saved.sample, value.saved.value) == (0, 0.0)
    assert value.saved.lower < 0 < value.saved.upper
