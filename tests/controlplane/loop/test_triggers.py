from pathlib import Path

import pytest

from controlplane.loop import observe, triggers
from controlplane.store import decisions, jobs, ledger
from tests.controlplane.loop.fixture import NAME, World, outcome, world

DAY_MS = 86_400_000


@pytest.fixture
def labelled_world(tmp_path: Path) -> World:
    made = world(
        tmp_path,
        training={"labels": 10, "every_s": 7200, "weekly_budget": 1},
        drift={"least_labelled": 10, "reference": 100, "window": 20},
    )
    bundle = made.bundle()
    made.first_plan(bundle)
    records = []
    for i in range(20):
        records += [made.sample(f"text number {i}", bundle=bundle), outcome(i + 1, "safe")]
    for record in records:
        if record.WhichOneof("body") == "outcome":
            record.outcome.received_at_unix_ms = record.outcome.observed_at_unix_ms = made.clock()
    made.capture(records)
    observe.observe(made.deployment)
    return made


def trainings(world: World) -> list[str]:
    with world.deployment.store.reading() as unit:
        return [job.cause for job in jobs.listed(unit, NAME) if job.kind == "train"]


def said(world: World) -> list[tuple[str, str]]:
    with world.deployment.store.reading() as unit:
        return [(row.trigger, row.code) for row in decisions.listed(unit, NAME)]


def test_enough_labels_start_one_training_and_it_is_written_down(labelled_world: World) -> None:
    triggers.watch(labelled_world.deployment)
    assert trainings(labelled_world) == ["labels"]
    assert said(labelled_world) == [("labels", "")]
    with labelled_world.deployment.store.reading() as unit:
        actions = [entry.action for entry in ledger.entries(unit.connection, 0, 100)]
    assert actions.count("retrain.decided") == 1


def test_the_same_no_is_recorded_once_however_often_it_is_asked(labelled_world: World) -> None:
    triggers.watch(labelled_world.deployment)
    labelled_world.clock.now_ms += 3 * 3600 * 1000
    for _ in range(5):
        triggers.watch(labelled_world.deployment)
    assert trainings(labelled_world) == ["labels"]
    assert said(labelled_world) == [("labels", ""), ("schedule", "busy")]


def test_the_weekly_budget_holds_for_a_week_and_no_longer(labelled_world: World) -> None:
    def finish() -> None:
        with labelled_world.deployment.store.writing(labelled_world.clock()) as unit:
            jobs.finish(unit, jobs.listed(unit, NAME)[-1].id, jobs.DONE, "done", {})

    triggers.watch(labelled_world.deployment)
    finish()
    labelled_world.clock.now_ms += DAY_MS
    triggers.watch(labelled_world.deployment)
    assert trainings(labelled_world) == ["labels"]
    assert said(labelled_world)[-1] == ("schedule", "budget")
    labelled_world.clock.now_ms += 7 * DAY_MS
    triggers.watch(labelled_world.deployment)
    assert trainings(labelled_world) == ["labels", "schedule"]
