import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from controlplane.loop.observe import ABANDONED_S, ASIDE, observe
from controlplane.loop.sketches import WindowSketch
from controlplane.store import ledger, samples, segments, sketches
from controlplane.store.tables import quarantine
from protos import capture_pb2
from protos.contract.segment import SegmentWriter
from protos.observe_pb2 import SketchWindow
from tests.controlplane.loop.fixture import NAME, ZERO, outcome, world


def test_each_record_is_kept_once_however_often_segments_are_read(tmp_path: Path) -> None:
    found = world(tmp_path)
    found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(5)] + [outcome(1, "safe")])
    assert observe(found.deployment) == 6
    assert observe(found.deployment) == 0
    with found.deployment.store.reading() as unit:
        assert samples.count(unit, NAME) == (5, 1)
        assert [(r.text, r.label) for r in samples.labelled(unit, NAME, 0, 10)] == [("text 0", "safe")]


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
    assert not path.exists() and (path.parent / ASIDE / path.name).read_bytes() == bytes(data)


def test_a_record_that_a_killed_gateway_never_finished_is_on_record_once_nobody_can_finish_it(tmp_path: Path) -> None:
    found = world(tmp_path)
    path = found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(4)])
    cut = path.read_bytes()[:-7]
    path.write_bytes(cut)
    os.utime(path, (found.clock() / 1000,) * 2)
    assert observe(found.deployment) == 3
    assert path.exists(), "its gateway may still be writing"
    found.clock.now_ms += int(1000 * ABANDONED_S) + 1000
    for _ in range(2):
        assert observe(found.deployment) == 0
    with found.deployment.store.reading() as unit:
        said = [e.detail for e in ledger.entries(unit.connection, 0, 10) if e.action == "capture.damaged"]
    assert [one["problem"] for one in said] == [f"{path.name}: ends within a record at {said[0]['offset']}"]
    assert not path.exists() and (path.parent / ASIDE / path.name).read_bytes() == cut


def test_a_sealed_segment_waits_for_its_key_however_old_it_is(tmp_path: Path) -> None:
    found = world(tmp_path)
    path = tmp_path / "capture" / "000000000000001-run-000000.seg"
    writer = SegmentWriter(path, X25519PrivateKey.generate().public_key())
    writer.append([found.sample("text", bundle=ZERO)])
    writer.close()
    os.utime(path, (0, 0))
    assert observe(found.deployment) == 0 and path.exists()


def test_what_cannot_be_used_is_quarantined_whole_and_the_rest_is_kept(tmp_path: Path) -> None:
    found = world(tmp_path)
    stranger = found.sample("text", bundle=ZERO)
    stranger.sample.specialist = "nobody"
    newer = capture_pb2.CaptureRecord.FromString(b"\xa2\x06\x03new")  # a body of some later version, field 100
    found.capture([newer, stranger, outcome(1, "maybe"), found.sample("text", bundle=ZERO), outcome(2, "safe")])
    assert observe(found.deployment) == 5
    with found.deployment.store.reading() as unit:
        assert samples.count(unit, NAME) == (1, 1)
        counts = {row.reason: row.records for row in segments.quarantined(unit)}
        kept = unit.connection.execute(select(quarantine.c.body).order_by(quarantine.c.id)).scalars()
        bodies = [unit.vault.open(body) for body in kept]
    assert counts == {"unknown_record": 1, "unknown_specialist": 1, "label_unknown": 1}
    assert bodies == [newer.SerializeToString(), stranger.SerializeToString(), outcome(1, "maybe").SerializeToString()]


def test_what_gateways_did_not_record_adds_up_by_cause(tmp_path: Path) -> None:
    found = world(tmp_path)
    drops = [
        capture_pb2.CaptureRecord(
            drops=capture_pb2.Drops(gateway_id=name, by_cause={"capture_queue_full": n}, at_unix_ms=n)
        )
        for name, n in (("a", 3), ("a", 4), ("b", 10))
    ]
    found.capture(drops)
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        rows = [tuple(row) for row in segments.not_captured_by_cause(unit)]
    assert rows == [("capture_queue_full", 17, 10)]


def test_sketches_hold_what_was_drawn_by_rate_by_arm_and_window(tmp_path: Path) -> None:
    found = world(tmp_path, sketch_window_s=10)
    odd = found.sample("odd", bundle=ZERO)
    odd.sample.drawn_for = "margin"
    first = [found.sample(f"text {i}", bundle=ZERO, score=i / 10) for i in range(10)] + [odd]
    found.clock.now_ms += 10_000
    found.capture([*first, *(found.sample("later", bundle=ZERO, arm=3) for _ in range(4))])
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        rows = sketches.newest(unit, NAME, 10)
    assert [(row.arm, row.rows) for row in rows] == [(1, 10), (3, 4)]
    kept = WindowSketch(SketchWindow.FromString(rows[0].body))
    assert kept.quantiles("score", [0.5])[0] in (pytest.approx(0.4), pytest.approx(0.5))
    assert kept.shares("label") == {"safe": 1.0}


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
        assert segments.offsets(unit) == {}
        assert samples.count(unit, NAME) == (2, 0)


def test_memory_of_samples_is_bounded(tmp_path: Path) -> None:
    found = world(tmp_path, keep_samples=1000)
    found.capture([found.sample(f"text {i}", bundle=ZERO) for i in range(1500)])
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        assert samples.count(unit, NAME)[0] == 1000
        assert samples.of_primary(unit, NAME, ZERO, 0, 1)[0].text == "text 500"


def test_outcomes_that_came_at_one_moment_are_pruned_to_the_bound_and_not_all_forgotten(tmp_path: Path) -> None:
    found = world(tmp_path, keep_samples=1000)
    found.capture([outcome(number, "safe") for number in range(1500)])
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        assert samples.count(unit, NAME) == (0, 1000)
