"""Sealed segments: read with the private key only, and not at all once anything was changed."""

from pathlib import Path

import pytest

from protos import capture_pb2
from protos.contract.attestation import KeyInvalid, generate_key
from protos.contract.seal import generate_seal_key, read_opener, read_seal_key
from protos.contract.segment import SealedSegment, SegmentInvalid, SegmentWriter, read_segment


def sealed(root: Path, names: list[str]) -> Path:
    generate_seal_key(root / "seal.key")
    writer = SegmentWriter(root / "a.seg", read_seal_key(root / "seal.key.pub"))
    for name in names:
        writer.append([capture_pb2.CaptureRecord(outcome=capture_pb2.Outcome(decision_id=name, label="secret"))])
    writer.close()
    return root / "a.seg"


def test_the_private_key_reads_it_from_any_record_on_and_nothing_else_does(tmp_path: Path) -> None:
    path = sealed(tmp_path, ["one", "two", "three"])
    opener = read_opener(tmp_path / "seal.key")
    found = list(read_segment(path, 0, opener))
    assert [record.outcome.decision_id for record, _ in found] == ["one", "two", "three"]
    assert found[-1][1] == path.stat().st_size
    assert [r.outcome.decision_id for r, _ in read_segment(path, found[0][1], opener)] == ["two", "three"]
    assert b"secret" not in path.read_bytes()
    with pytest.raises(SealedSegment, match="is sealed"):
        list(read_segment(path))
    generate_seal_key(tmp_path / "other.key")
    with pytest.raises(SealedSegment, match="another key"):
        list(read_segment(path, 0, read_opener(tmp_path / "other.key")))


def test_records_that_change_places_are_no_records(tmp_path: Path) -> None:
    path = sealed(tmp_path, ["one", "two"])
    opener = read_opener(tmp_path / "seal.key")
    (_, first), (_, second) = read_segment(path, 0, opener)
    data = path.read_bytes()
    start = first - (second - first)
    path.write_bytes(data[:start] + data[first:second] + data[start:first])
    with pytest.raises(SegmentInvalid, match="was changed"):
        list(read_segment(path, 0, opener))


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    generate_key(tmp_path / "ann.key")
    with pytest.raises(KeyInvalid, match="x25519"):
        read_seal_key(tmp_path / "ann.key.pub")
    with pytest.raises(KeyInvalid, match="X25519 private key"):
        read_opener(tmp_path / "ann.key")
