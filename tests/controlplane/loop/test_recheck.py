from pathlib import Path
from typing import Any

import pytest

from controlplane.loop import observe, recheck
from controlplane.store import decisions, jobs, ledger
from tests.controlplane.loop.fixture import NAME, World, outcome, world

HOUR_MS = 3_600_000


@pytest.fixture
def labelled_world(tmp_path: Path) -> World:
    made = world(tmp_path, recheck={"every_s": 7200, "matured_s": 3600, "least": 20}, drift={"least_labelled": 20})
    data = made.deployment.artifacts.put(b'{"text": "a", "label": "safe", "slice": ""}\n')
    bundle = made.deployment.bundles.add(
        task=made.deployment.pack(NAME).task,
        engine={"backend": "simulator"},
        contents={},
        base={},
        lineage={"author": "trainer", "dataset": data},
    ).digest
    made.first_plan(bundle)
    add(made, bundle, 0, 25)
    return made


def add(made: World, bundle: str, start: int, n: int) -> None:
    records = []
    for i in range(start, start + n):
        records += [made.sample(f"text number {i}", bundle=bundle), outcome(i + 1, "safe")]
    made.capture(records, f"{start:015d}-run-000000.seg")
    observe.observe(made.deployment)


def queued(made: World) -> list[Any]:
    with made.deployment.store.reading() as unit:
        return [job for job in jobs.listed(unit, NAME) if job.kind == recheck.KIND]


def end(made: World, *, passed: bool) -> None:
    gates = [{"text": "core accuracy: at least 0.9", "passed": passed}]
    with made.deployment.store.writing(made.clock()) as unit:
        job = next(j for j in jobs.listed(unit, NAME) if j.state == jobs.QUEUED)
        recheck.finished(unit, made.deployment, job, {"gates": gates, "evaluation_digest": "sha256:0"})
        jobs.finish(unit, job.id, jobs.DONE, "done", {})


def test_labels_are_judged_once_they_are_settled_and_only_once(labelled_world: World, tmp_path: Path) -> None:
    made = labelled_world
    recheck.watch(made.deployment)
    assert queued(made) == [], "an hour has to pass before an outcome counts as settled"
    made.clock.now_ms += HOUR_MS
    for _ in range(3):
        recheck.watch(made.deployment)
    assert len(queued(made)) == 1
    config = recheck.prepare(made.deployment, queued(made)[0], tmp_path)
    assert (config["partial"], config["primary"]) == (True, None)
    assert len((tmp_path / "core.jsonl").read_text().splitlines()) == 25
    end(made, passed=True)
    made.clock.now_ms += 5 * HOUR_MS
    recheck.watch(made.deployment)
    assert len(queued(made)) == 1, "nothing new came in"


def test_a_primary_that_fails_the_suite_asks_for_a_retraining(labelled_world: World) -> None:
    made = labelled_world
    made.clock.now_ms += HOUR_MS
    recheck.watch(made.deployment)
    end(made, passed=False)
    with made.deployment.store.reading() as unit:
        said = decisions.listed(unit, NAME)
        trained = [job.cause for job in jobs.listed(unit, NAME) if job.kind == "train"]
        recorded = [e.detail for e in ledger.entries(unit.connection, 0, 100) if e.action == "primary.rechecked"]
    assert [(row.trigger, row.code) for row in said] == [("suite", "")] and trained == ["suite"]
    assert recorded[0]["accepted"] is False and "core accuracy" in recorded[0]["failed"][0]
