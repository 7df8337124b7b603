from pathlib import Path

import pytest

from controlplane.loop import drift
from controlplane.loop.observe import observe
from controlplane.packs.registry import load_pack
from controlplane.store import jobs
from controlplane.store import readings as reading_rows
from tests.controlplane.loop.fixture import NAME, World, outcome, world

DRIFT = {
    "reference": 100,
    "window": 40,
    "persistence": 2,
    "false_alarm_rate": 0.1,
    "cooldown_s": 100,
    "least_labelled": 20,
}


@pytest.fixture
def found(tmp_path: Path) -> World:
    return world(tmp_path, drift=DRIFT)


def feed(found: World, bundle: str, n: int, shift: float, *, is_labelled: bool = True) -> None:
    """Let ``n`` requests be captured; the scores follow the texts' labels."""
    stream = load_pack(NAME).stream(found.numbers.get("sample", 0), shift)
    records = []
    for example in (next(stream) for _ in range(n)):
        score = 0.9 if example.label == "unsafe" else 0.1
        records.append(found.sample(example.text, bundle=bundle, score=score))
        if is_labelled:
            records.append(outcome(found.numbers["sample"], example.label))
    number = found.numbers["segment"] = found.numbers.get("segment", 0) + 1
    found.capture(records, f"{number:015d}-run-{number:06d}.seg")
    observe(found.deployment)
    drift.watch(found.deployment)


def readings(found: World) -> list[tuple[str, str, str]]:
    with found.deployment.store.reading() as unit:
        return [(r.signal, r.verdict, r.action) for r in reading_rows.newest(unit, NAME)]


def trainings(found: World) -> list[str]:
    with found.deployment.store.reading() as unit:
        return [job.cause for job in jobs.listed(unit, NAME)]


def test_nothing_is_judged_before_a_reference_and_a_window_are_complete(found: World) -> None:
    bundle = found.bundle()
    feed(found, bundle, 50, 0.0)
    found.first_plan(bundle)
    feed(found, bundle, 60, 0.0)
    assert readings(found) == []
    feed(found, bundle, 40, 0.0)
    assert {signal for signal, _, _ in readings(found)} == {
        "input",
        "score",
        "decision",
        "confidence",
        "calibration",
        "error",
        "sudden",
    }


def test_windows_wait_while_a_job_of_their_specialist_runs_on_this_machine(found: World) -> None:
    bundle = found.bundle()
    found.first_plan(bundle)
    feed(found, bundle, 100, 0.0)
    with found.deployment.store.writing(found.clock()) as unit:
        jobs.add(unit, {"id": "j", "kind": "train", "specialist": NAME, "cause": "operator", "request": {}})
        jobs.claim(unit, 10_000)
    feed(found, bundle, 80, 0.0)
    assert readings(found) == []
    with found.deployment.store.writing(found.clock()) as unit:
        jobs.finish(unit, "j", jobs.DONE, "done", {})
    drift.watch(found.deployment)
    assert [signal for signal, _, _ in readings(found)].count("input") == 2


def test_a_shift_that_lasts_starts_one_retraining_and_every_reading_says_what_followed(found: World) -> None:
    bundle = found.bundle()
    found.first_plan(bundle)
    feed(found, bundle, 100, 0.0)
    feed(found, bundle, 40, 0.0)
    assert ("input", "no_drift", "not retraining, because input says no_drift") in readings(found)
    assert trainings(found) == []
    for _ in range(3):
        feed(found, bundle, 40, 1.0)
    assert ("input", "drift", "retraining") in readings(found)
    assert trainings(found) == ["drift"]
    actions = {action for _, verdict, action in readings(found)[-7:] if verdict == "drift"}
    assert len(actions) == 1 and actions.pop().startswith("not retraining, because job train-")


def test_persistence_is_reached_however_many_signals_there_are(tmp_path: Path) -> None:
    windows = 60
    found = world(tmp_path, drift=DRIFT | {"persistence": windows})
    bundle = found.bundle()
    found.first_plan(bundle)
    feed(found, bundle, 100, 0.0)
    over = {"specialist": NAME, "bundle": bundle, "verdict": "watch", "value": 2.0, "threshold": 1.0, "sample": 40}
    with found.deployment.store.writing(found.clock()) as unit:
        for last in range(101, 100 + windows):
            for signal in ("input", "score", "decision", "confidence", "calibration", "error", "sudden"):
                said = {"signal": signal, "last_sample": last, "summary": "", "action": ""}
                reading_rows.add(unit, over | said)
    feed(found, bundle, windows - 1 + 40, 1.0)
    last = {signal: verdict for signal, verdict, _ in readings(found)[-7:]}
    assert last["input"] == "drift"


def test_drift_without_labels_does_not_retrain_and_says_why(found: World) -> None:
    bundle = found.bundle()
    found.first_plan(bundle)
    feed(found, bundle, 100, 0.0, is_labelled=False)
    feed(found, bundle, 80, 1.0, is_labelled=False)
    assert trainings(found) == []
    assert any("0 live samples have a known outcome, expected 20" in action for _, _, action in readings(found))


def test_fallbacks_and_canaries_are_no_samples_of_the_primary(found: World) -> None:
    bundle = found.bundle()
    found.first_plan(bundle)
    odd = [found.sample("x", bundle=bundle, fallback={"used": True}) for _ in range(150)]
    found.capture(odd + [found.sample("y", bundle=bundle, arm=3) for _ in range(150)])
    observe(found.deployment)
    drift.watch(found.deployment)
    with found.deployment.store.reading() as unit:
        assert reading_rows.reference(unit, NAME, bundle) is None
