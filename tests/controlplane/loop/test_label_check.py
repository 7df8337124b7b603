"""Flipped labels are held back before training; new texts with new labels are not."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.loop import label_check
from controlplane.loop.observe import observe
from controlplane.packs.registry import load_pack
from controlplane.store import samples
from tests.controlplane.loop.fixture import NAME, ZERO, World, outcome, world

LABELS = ("safe", "unsafe")
FIRST_DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def day_of_labels(
    found: World,
    day: int,
    *,
    shift: float,
    flipped: float = 0.0,
    rows: int = 200,
    sources: int = 1,
    later_ms: int = 0,
) -> None:
    """Let sources report a day of outcomes between them, a share of them the wrong way round."""
    rng = random.Random(day)
    at = FIRST_DAY + timedelta(days=day)
    found.clock.now_ms = int(at.timestamp() * 1000) + later_ms
    stream = load_pack(NAME).stream(day, shift)
    records = []
    for example in (e for e in stream if e.label in LABELS):
        records.append(found.sample(example.text, bundle=ZERO))
        label = LABELS[1 - LABELS.index(example.label)] if rng.random() < flipped else example.label
        told = outcome(found.numbers["sample"], label)
        if sources > 1:
            told.outcome.source = f"source-{found.numbers['sample'] % sources}"
        told.outcome.received_at_unix_ms = told.outcome.observed_at_unix_ms = found.clock()
        records.append(told)
        if len(records) >= 2 * rows:
            break
    found.capture(records, f"{day:015d}-run{later_ms}-{day:06d}.seg")
    observe(found.deployment)
    label_check.check(found.deployment)


def states(found: World) -> dict[str, str]:
    with found.deployment.store.reading() as unit:
        return {batch.day: batch.state for batch in label_check.newest(unit, NAME)}


def trained_on(found: World) -> int:
    with found.deployment.store.reading() as unit:
        return len(samples.labelled(unit, NAME, 0, 10_000))


def test_a_day_of_flips_is_held_back_until_a_person_releases_it(tmp_path: Path) -> None:
    found = world(tmp_path)
    for day in range(2):
        day_of_labels(found, day, shift=0.0)
    before = trained_on(found)
    day_of_labels(found, 2, shift=0.0, flipped=0.2)
    assert states(found) == {"2026-03-02": "clear", "2026-03-03": "flagged"}
    assert trained_on(found) == before
    with found.deployment.store.writing(found.clock()) as unit:
        assert label_check.release(unit, NAME, "test", "2026-03-03", "ann", "looked at them")
        assert not label_check.release(unit, NAME, "test", "2026-03-03", "ann", "twice")
    assert states(found)["2026-03-03"] == "released"
    assert trained_on(found) > before


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_new_wave_of_texts_rightly_labelled_is_trained_on(tmp_path: Path, shift: float) -> None:
    found = world(tmp_path)
    for day in range(2):
        day_of_labels(found, day, shift=0.0)
    day_of_labels(found, 2, shift=shift)
    assert set(states(found).values()) == {"clear"}


def say_again(found: World, first: int, last: int, segment: int) -> None:
    """Let the same source say the contrary of some decisions, later on the same day."""
    found.clock.now_ms += 1_000
    with found.deployment.store.reading() as unit:
        known = {row.decision_id: row.label for row in samples.labelled_cases(unit, NAME, 10_000)}
    records = []
    for number in range(first, last + 1):
        told = outcome(number, LABELS[1 - LABELS.index(known[f"d-{number}"])])
        told.outcome.received_at_unix_ms = told.outcome.observed_at_unix_ms = found.clock()
        records.append(told)
    found.capture(records, f"{segment:015d}-run-{segment:06d}.seg")
    observe(found.deployment)
    label_check.check(found.deployment)


def test_labels_that_are_said_again_the_other_way_round_are_judged_again(tmp_path: Path) -> None:
    found = world(tmp_path)
    for day in range(3):
        day_of_labels(found, day, shift=0.0)
    assert states(found)["2026-03-03"] == "clear"
    say_again(found, 401, 480, 3)  # two fifths of the newest day: no more labels than before
    assert states(found)["2026-03-03"] == "flagged"


def test_a_release_is_of_the_labels_that_were_looked_at(tmp_path: Path) -> None:
    found = world(tmp_path)
    for day in range(3):
        day_of_labels(found, day, shift=0.0, flipped=0.2 if day == 2 else 0.0)
    with found.deployment.store.writing(found.clock()) as unit:
        assert label_check.release(unit, NAME, "test", "2026-03-03", "ann", "looked at them")
    label_check.check(found.deployment)
    assert states(found)["2026-03-03"] == "released"
    say_again(found, 401, 480, 3)
    assert states(found)["2026-03-03"] == "flagged"


def test_many_sources_of_few_labels_each_are_judged_together(tmp_path: Path) -> None:
    found = world(tmp_path)
    for day in range(2):
        day_of_labels(found, day, shift=0.0)
    before = trained_on(found)
    day_of_labels(found, 2, shift=0.0, flipped=0.2, sources=20)
    assert states(found)["2026-03-03"] == "flagged"
    assert trained_on(found) == before
    with found.deployment.store.writing(found.clock()) as unit:
        assert label_check.release(unit, NAME, label_check.OTHERS, "2026-03-03", "ann", "looked at them")
    assert trained_on(found) > before


def test_a_day_of_more_labels_than_are_looked_at_is_judged_by_the_days_before_and_again_as_more_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world(tmp_path)
    for day in range(2):
        day_of_labels(found, day, shift=0.0)
    monkeypatch.setattr(label_check, "MOST", 100)  # 400 labels in all
    day_of_labels(found, 2, shift=0.0, rows=420)
    assert states(found)["2026-03-03"] == "clear"
    day_of_labels(found, 2, shift=0.0, flipped=0.5, rows=420, later_ms=60_000)
    assert states(found)["2026-03-03"] == "flagged"
