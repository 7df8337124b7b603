"""Capture files survive what disks and crashes do to them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import capture_pb2
from protos.contract.segment import SegmentInvalid, SegmentWriter, read_segment


def outcome(name: str) -> capture_pb2.CaptureRecord:
    return capture_pb2.CaptureRecord(outcome=capture_pb2.Outcome(decision_id=name))


def names(path: Path, offset: int = 0) -> list[str]:
    return [record.outcome.decision_id for record, _ in read_segment(path, offset)]


@given(st.lists(st.text(max_size=40), max_size=12), st.data())
def test_a_cut_file_gives_whole_records_only_and_reading_goes_on_later(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("s") / "a.seg"
    writer = SegmentWriter(path)
    writer.append([outcome(name) for name in ids])
    writer.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    seen, offset = [], 0
    for record, end in read_segment(path):
        seen.append(record.outcome.decision_id)
        offset = end
    assert seen == ids[: len(seen)]
    path.write_bytes(whole)
    assert seen + names(path, offset) == ids


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "a.seg")
    writer.append([outcome("one"), outcome("two")])
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[-1] ^= 1
    writer.path.write_bytes(data)
    with pytest.raises(SegmentInvalid, match="checksum"):
        names(writer.path)


def test_another_file_is_not_a_segment(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(b"x" * 100)
    with pytest.raises(SegmentInvalid, match="expected"):
        names(path)
