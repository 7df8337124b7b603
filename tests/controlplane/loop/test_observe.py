import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from controlplane.loop.observe import ABANDONED_S, ASIDE, observe
from controlplane.loop.sketches import WindowSketch
from controlplane.store import ledger, samples, segments, sketches
from controlplane.store.tables import quarantine, sample
from protos import capture_pb2
from protos.contract.segment import SegmentWriter
from protos.observe_pb2 import SketchWindow
from tests.controlplane.loop.fixture import NAME, ZERO, World, outcome, world


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


def test_a_whole_number_beyond_what_json_holds_exactly_stops_nothing(tmp_path: Path) -> None:
    found = world(tmp_path)
    large = found.sample("", bundle=ZERO)
    large.sample.input.fields["id"].integer = 2**60
    found.capture([large, found.sample("next", bundle=ZERO)])
    assert observe(found.deployment) == 2
    with found.deployment.store.reading() as unit:
        kept = samples.of_primary(unit, NAME, ZERO, 0, 10)
    assert [row.fields for row in kept] == [{"id": 2**60}, {}]


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


CAPTURED = st.builds(
    dict,
    text=st.text(max_size=20),
    arm=st.sampled_from([1, 2, 3]),
    at_ms=st.integers(0, 30_000),
    caller=st.sampled_from(["", "00000000000000aa", "00000000000000bb"]),
    drawn_for=st.sampled_from(["", "rate", "margin"]),
    inclusion=st.sampled_from([0.0, 0.25]),
    fallback=st.booleans(),
    probabilities=st.lists(st.floats(0, 1, width=32), max_size=3),
    reasons=st.lists(st.tuples(st.sampled_from("ab"), st.floats(-4, 4, width=32)), max_size=2),
    fields=st.dictionaries(st.sampled_from("xy"), st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=2),
)


def captured(found: World, said: dict[str, Any]) -> capture_pb2.CaptureRecord:
    record = found.sample("" if said["fields"] else said["text"], bundle=ZERO, arm=said["arm"], score=0.125)
    one = record.sample
    one.at_unix_ms, one.routing_key_hash, one.drawn_for = said["at_ms"], said["caller"], said["drawn_for"]
    one.inclusion, one.inclusion_bp, one.answer.fallback.used = said["inclusion"], 500, said["fallback"]
    for p in said["probabilities"]:
        one.answer.probabilities.add(label="safe", probability=p)
    for field, odds in said["reasons"]:
        one.answer.reasons.add(field=field, log_odds=odds)
    for name, value in said["fields"].items():
        setattr(one.input.fields[name], "flag" if isinstance(value, bool) else "integer", value)
    return record


@given(st.lists(CAPTURED, min_size=1, max_size=30))
@settings(max_examples=5, deadline=None)
def test_rows_and_sketches_hold_what_each_record_says(all_said: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = world(Path(folder), sketch_window_s=10)
        found.capture([captured(found, said) for said in all_said])
        assert observe(found.deployment) == len(all_said)
        with found.deployment.store.reading() as unit:
            rows = list(unit.connection.execute(select(sample).order_by(sample.c.id)))
            windows = sketches.newest(unit, NAME, 100)
        found.deployment.store.close()
    by_window: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row, said in zip(rows, all_said, strict=True):
        drawn_for = said["drawn_for"] or "rate"
        assert (row.text, row.fields) == ("" if said["fields"] else said["text"], said["fields"])
        assert (row.arm, row.at_ms, row.subject) == (said["arm"], said["at_ms"], said["caller"])
        assert (row.fallback, row.drawn_for, row.inclusion) == (said["fallback"], drawn_for, said["inclusion"] or 0.05)
        assert row.probabilities == said["probabilities"] and row.reasons == [list(r) for r in said["reasons"]]
        assert (row.score, row.confidence) == (0.125, max(said["probabilities"], default=0.125))
        if drawn_for == "rate":
            by_window.setdefault((said["at_ms"] // 10_000 * 10_000, said["arm"]), []).append(said)
    assert sorted((w.start_ms, w.arm, w.rows) for w in windows) == sorted((*k, len(v)) for k, v in by_window.items())
    for window in windows:
        kept, of_it = WindowSketch(SketchWindow.FromString(window.body)), by_window[window.start_ms, window.arm]
        assert kept.callers() == pytest.approx(len({s["caller"] for s in of_it if s["caller"]}), abs=0.01)
        for name in "xy":
            values = [s["fields"][name] for s in of_it if name in s["fields"]]
            flags = [str(v) for v in values if isinstance(v, bool)]
            numbers = [float(np.float32(v)) for v in values if not isinstance(v, bool)]
            assert kept.shares(name) == {v: pytest.approx(flags.count(v) / len(flags)) for v in flags}
            assert kept.quantiles(name, [0.0, 1.0]) == ([min(numbers), max(numbers)] if numbers else [])


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
