"""The record is bounded, honest about what it lost, and never in the way."""

import threading
from pathlib import Path

from gateway.metrics import Metrics
from gateway.serving.capture import CaptureLane
from protos import capture_pb2
from protos.contract.seal import SealKeyFile, generate_seal_key, read_opener
from protos.contract.segment import read_segment


def lane(directory: Path, **changes: object) -> CaptureLane:
    sizes = {
        "max_records": 1_000,
        "quota_bytes": 1 << 20,
        "segment_bytes": 1 << 16,
        "flush_s": 0.005,
        "segment_s": 60,
        "seal": None,
        **changes,
    }
    return CaptureLane(directory, "run", "gateway-1", Metrics(), **sizes)  # type: ignore[arg-type]


def record(name: str) -> capture_pb2.CaptureRecord:
    return capture_pb2.CaptureRecord(outcome=capture_pb2.Outcome(decision_id=name))


def written(directory: Path) -> list[capture_pb2.CaptureRecord]:
    return [r for path in sorted(directory.glob("*.seg")) for r, _ in read_segment(path)]


def test_what_was_kept_is_read_back_in_order_across_segments(tmp_path: Path) -> None:
    capture = lane(tmp_path, segment_bytes=200)
    names = [f"decision-{i}" for i in range(300)]
    for name in names:
        assert capture.offer(record(name))
        if name.endswith("00"):  # let the writer come by, so that more than one segment is filled
            while capture._queue:
                threading.Event().wait(0.001)
    capture.close()
    assert [r.outcome.decision_id for r in written(tmp_path)] == names
    assert len(list(tmp_path.glob("*.seg"))) > 1


def test_a_full_lane_drops_counts_and_records_the_loss(tmp_path: Path) -> None:
    capture = lane(tmp_path, max_records=5, flush_s=30)
    kept = [capture.offer(record(str(i))) for i in range(20)]
    assert kept == [True] * 5 + [False] * 15
    capture.close()
    drops = [r.drops for r in written(tmp_path) if r.HasField("drops")]
    assert [dict(d.by_cause) for d in drops] == [{"capture_queue_full": 15}]


def test_a_full_disk_loses_records_and_nothing_else(tmp_path: Path) -> None:
    capture = lane(tmp_path, quota_bytes=0)
    assert all(capture.offer(record(str(i))) for i in range(10))
    capture.close()
    assert capture.all_drops() == {"capture_disk": 10}
    assert written(tmp_path) == []


def test_a_directory_that_cannot_be_made_loses_records_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    capture = lane(tmp_path / "file" / "capture")
    assert capture.offer(record("one"))
    capture.close()
    assert capture.all_drops() == {"capture_disk": 1}


def test_a_segment_is_closed_when_it_is_old_and_sealed_when_there_is_a_key(tmp_path: Path) -> None:
    generate_seal_key(tmp_path / "seal.key")
    capture = lane(tmp_path, segment_s=0, seal=SealKeyFile(tmp_path / "seal.key.pub"))
    for name in ("one", "two", "three"):
        assert capture.offer(record(name))
        while capture._queue:
            threading.Event().wait(0.001)
    capture.close()
    paths = sorted(tmp_path.glob("*.seg"))
    opener = read_opener(tmp_path / "seal.key")
    assert len(paths) == 3
    assert [r.outcome.decision_id for path in paths for r, _ in read_segment(path, 0, opener)] == [
        "one",
        "two",
        "three",
    ]


def test_until_a_key_is_published_nothing_is_recorded_rather_than_in_the_clear(tmp_path: Path) -> None:
    seal = SealKeyFile(tmp_path / "seal.key.pub")
    before = lane(tmp_path / "capture", seal=seal)
    assert before.offer(record("early"))
    before.close()
    assert before.all_drops() == {"capture_disk": 1} and not list(tmp_path.glob("capture/*"))
    generate_seal_key(tmp_path / "seal.key")
    after = lane(tmp_path / "capture", seal=seal)
    assert after.offer(record("late"))
    after.close()
    (path,) = (tmp_path / "capture").glob("*.seg")
    (found,) = [r for r, _ in read_segment(path, 0, read_opener(tmp_path / "seal.key"))]
    assert found.outcome.decision_id == "late"
