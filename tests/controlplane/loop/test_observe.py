import os
from pathlib import Path

from controlplane.loop.observe import ABANDONED_S, observe
from controlplane.store import ledger, observations
from tests.controlplane.loop.fixture import NAME, ZERO, outcome, world


def test_each_record_is_kept_once_however_often_segments_are_read(tmp_path: Path) -> None:
    found = world(tmp_path)
    found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(5)] + [outcome(1, "safe")])
    assert observe(found.deployment) == 6
    assert observe(found.deployment) == 0
    with found.deployment.store.reading() as unit:
        assert observations.count(unit, NAME) == (5, 1)
        assert [(r.text, r.label) for r in observations.labelled(unit, NAME, 0, 10)] == [("text 0", "safe")]


def test_a_segment_is_read_on_from_where_it_ended(tmp_path: Path) -> None:
    found = world(tmp_path)
    whole = found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(4)])
    data = whole.read_bytes()
    whole.write_bytes(data[:-7])
    assert observe(found.deployment) == 3
    whole.write_bytes(data)
    assert observe(found.deployment) == 1


def test_a_damaged_segment_is_recorded_and_what_came_before_is_kept(tmp_path: Path) -> None:
    found = world(tmp_path)
    path = found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(4)])
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    assert observe(found.deployment) == 3
    assert observe(found.deployment) == 0
    with found.deployment.store.reading() as unit:
        actions = [entry.action for entry in ledger.entries(unit.connection, 0, 10)]
    assert actions.count("capture.damaged") == 1


def test_finished_segments_are_removed_and_the_one_being_written_stays(tmp_path: Path) -> None:
    found = world(tmp_path)
    first = found.capture([found.sample("a", bundle=ZERO)], "000000000000001-run-000000.seg")
    second = found.capture([found.sample("b", bundle=ZERO)], "000000000000002-run-000001.seg")
    observe(found.deployment)
    assert (first.exists(), second.exists()) == (False, True)
    os.utime(second, (0, 0))
    found.clock.now_ms = int(1000 * ABANDONED_S) + 1000
    observe(found.deployment)
    assert not second.exists()
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        assert observations.offsets(unit) == {}
        assert observations.count(unit, NAME) == (2, 0)


def test_memory_of_samples_is_bounded(tmp_path: Path) -> None:
    found = world(tmp_path, keep_samples=1000)
    found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(1500)])
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        assert observations.count(unit, NAME)[0] == 1000
        assert observations.primary_samples(unit, NAME, ZERO, 0, 1)[0].text == "text 500"
