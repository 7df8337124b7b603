from dataclasses import replace

import pytest

from controlplane.domain.retraining import Facts, Limits, against, is_due

READY = Facts("", "", True, 10_000.0, 10_000.0, 50, 500, 0)
LIMITS = Limits(every_s=3600, labels=40, least_labelled=300, weekly_budget=3, cooldown_s=600)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"has_primary": False}, "no_primary"),
        ({"busy": "job x (train) is running"}, "busy"),
        ({"rollout": "r-1"}, "rollout_open"),
        ({"this_week": 3}, "budget"),
        ({"since_drift_s": 599.0}, "cooldown"),
        ({"labelled": 299}, "too_few_labels"),
    ],
)
def test_each_thing_that_stands_against_a_retraining_is_named(change: dict[str, object], code: str) -> None:
    found = against("drift", replace(READY, **change), LIMITS)  # type: ignore[arg-type]
    assert found is not None and found.code == code
    assert against("drift", READY, LIMITS) is None


def test_only_drift_waits_for_the_cooldown() -> None:
    assert against("schedule", replace(READY, since_drift_s=1.0), LIMITS) is None


def test_a_training_for_another_reason_does_not_make_drift_wait() -> None:
    assert against("drift", replace(READY, since_training_s=1.0), LIMITS) is None
    assert against("drift", replace(READY, since_training_s=1.0, since_drift_s=None), LIMITS) is None


def test_the_clock_and_the_labels_fire_when_they_are_due_and_not_when_they_are_off() -> None:
    assert is_due("schedule", READY, LIMITS) and is_due("labels", READY, LIMITS)
    assert not is_due("schedule", replace(READY, since_training_s=3599.0), LIMITS)
    assert not is_due("labels", replace(READY, fresh_labels=39), LIMITS)
    off = replace(LIMITS, every_s=0, labels=0)
    assert not is_due("schedule", READY, off) and not is_due("labels", READY, off)
    assert not is_due("schedule", replace(READY, since_training_s=None), LIMITS), "the first bundle is a person's"
