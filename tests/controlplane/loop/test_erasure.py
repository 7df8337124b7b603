"""What was erased can be read nowhere: not in the database, not in a backup of it, not in what was trained on."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import RequestInvalid, StepRefused
from controlplane.loop import erasure, labelling, retrain
from controlplane.loop.observe import observe
from controlplane.store import jobs, labels, ledger, samples, segments
from controlplane.store.artifacts import ArtifactMissing, Artifacts
from controlplane.store.seals import opener_of
from controlplane.store.store import Store
from controlplane.store.vault import KeyId, Vault, VaultBroken, key_of
from protos import capture_pb2
from protos.contract.draws import pseudonym
from protos.contract.seal import SealKeyFile
from protos.contract.segment import SealedSegment, SegmentWriter, read_segment
from tests.controlplane.loop.fixture import NAME, ZERO, World, outcome, world

SECRET = "canary words of one caller"
DAY_MS = 86_400_000


def sample(made: World, text: str, caller: str) -> Any:
    record = made.sample(text, bundle=ZERO)
    record.sample.routing_key_hash = pseudonym("r-0", caller)
    record.sample.input_digest = "sha256:" + "d" * 64
    return record


@pytest.fixture
def made(tmp_path: Path) -> World:
    """Return a world where two callers' texts were captured, labelled and prepared for a training."""
    found = world(tmp_path, training={"examples": 60, "held_out": 30})
    segment = found.capture(
        [sample(found, SECRET, "eve"), sample(found, "words of another", "bob"), outcome(1, "safe")]
    )
    observe(found.deployment)
    segment.unlink(missing_ok=True)  # read to its end; its gateway has moved on
    with found.deployment.store.writing(found.clock()) as unit:
        labelling.import_labels(unit, found.deployment, NAME, [("d-1", "ann", "safe"), ("d-2", "ann", "safe")])
    found.first_plan(found.bundle(1))
    return found


def texts(store: Store) -> set[str]:
    """Return everything that callers sent and that can still be read."""
    with store.reading() as unit:
        rows = [samples.decision(unit, name, NAME) for name in ("d-1", "d-2")]
        found = [row[0].text for row in rows if row is not None] + [row.text for row in labels.given(unit, NAME)]
        found += [row.text for row in samples.labelled_cases(unit, NAME, 10)]
    return set(found) - {""}


def erase(made: World, **what: Any) -> erasure.Erased:
    with made.deployment.store.writing(made.clock()) as unit:
        return erasure.erase(unit, made.deployment, NAME, person="stu", reason="asked to", **what)


def files_with(root: Path, words: str) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file() and words.encode() in p.read_bytes()]


def trained_on(made: World) -> str:
    """Prepare a training and return the digest of its rows."""
    with made.deployment.store.writing(made.clock()) as unit:
        name = retrain.ask(unit, made.deployment, NAME, cause="operator", reason="r", author="a", start_rollout=False)
    folder = made.deployment.settings.work_dir / name
    folder.mkdir(parents=True)
    with made.deployment.store.reading() as unit:
        job = jobs.get(unit, name)
    config = retrain.prepare(made.deployment, job, folder)
    with made.deployment.store.writing(made.clock()) as unit:
        jobs.finish(unit, name, jobs.DONE, "", {})
    return str(config["dataset_digest"])


def test_a_backup_made_before_does_not_bring_an_erased_caller_back(made: World, tmp_path: Path) -> None:
    dataset = trained_on(made)
    assert SECRET.encode() in made.deployment.artifacts.get(dataset)
    assert files_with(made.deployment.settings.work_dir, SECRET)
    (tmp_path / "backup").mkdir()
    shutil.copy(tmp_path / "control.db", tmp_path / "backup")
    shutil.copytree(tmp_path / "artifacts", tmp_path / "backup" / "artifacts")
    assert not files_with(tmp_path / "backup", SECRET)  # even before, a backup alone says nothing
    found = erase(made, caller="eve")
    assert (found.keys, found.data_sets) == (1, 1)
    assert texts(made.deployment.store) == {"words of another"}
    assert not files_with(tmp_path, SECRET)
    restored = Store(f"sqlite:///{tmp_path / 'backup' / 'control.db'}", Vault(tmp_path / "capture.keys"))
    assert texts(restored) == {"words of another"}
    artifacts = Artifacts(tmp_path / "backup" / "artifacts", restored.vault)
    for one in (artifacts, made.deployment.artifacts):
        with pytest.raises(ArtifactMissing, match="erased"):
            one.get(dataset)
    restored.close()


def test_a_caller_who_is_erased_and_comes_back_the_same_day_is_read_from_then_on(made: World) -> None:
    erase(made, caller="eve")
    again = sample(made, "words after", "eve")
    made.capture([again], "000000000000002-run-000000.seg")
    observe(made.deployment)
    with made.deployment.store.reading() as unit:
        found = {name: samples.decision(unit, name, NAME) for name in ("d-1", again.sample.decision_id)}
    assert [row[0].text for row in found.values() if row is not None] == ["", "words after"]


def in_quarantine(made: World, store: Store) -> list[bytes]:
    with store.reading() as unit:
        return [body for _, _, body in segments.quarantined_bodies(unit)]


def set_aside(made: World) -> list[bytes]:
    """Have records come in that cannot be used: two callers' of a specialist nobody knows, and one nobody can read."""
    first, second = sample(made, SECRET, "eve"), sample(made, "words of another", "bob")
    for record in (first, second):
        record.sample.specialist, record.sample.salt = "gone", "r-gone"
    first.sample.routing_key_hash = pseudonym("r-gone", "eve")
    second.sample.routing_key_hash = pseudonym("r-gone", "bob")
    unknown = capture_pb2.CaptureRecord.FromString(b"\xfa\x3e\x04" + SECRET[:4].encode())
    made.capture([first, second, unknown], "000000000000002-run-000000.seg")
    observe(made.deployment)
    kept = in_quarantine(made, made.deployment.store)
    assert len(kept) == 3 and any(SECRET.encode() in body for body in kept)
    return kept


def test_what_quarantine_keeps_of_a_caller_goes_too_and_what_it_keeps_of_another_stays(
    made: World, tmp_path: Path
) -> None:
    set_aside(made)
    shutil.copy(tmp_path / "control.db", tmp_path / "backup.db")
    assert erase(made, caller="eve").keys == 3  # the captured one, the one set aside, and that of what nobody can read
    restored = Store(f"sqlite:///{tmp_path / 'backup.db'}", Vault(tmp_path / "capture.keys"))
    for store in (made.deployment.store, restored):
        (left,) = in_quarantine(made, store)
        assert b"words of another" in left
    restored.close()
    with pytest.raises(StepRefused):
        erase(made, caller="eve")


def test_a_caller_known_to_quarantine_alone_can_be_erased(made: World) -> None:
    set_aside(made)
    erase(made, caller="eve")
    record = sample(made, "late words", "zoe")
    record.sample.specialist = "gone"
    made.capture([record], "000000000000003-run-000000.seg")
    observe(made.deployment)
    assert erase(made, caller="zoe").keys == 1
    assert len(in_quarantine(made, made.deployment.store)) == 1


def test_a_backup_of_segments_cannot_be_opened_once_gateways_have_left_the_old_key(tmp_path: Path) -> None:
    made = world(tmp_path, capture_seal="seal.pub")
    deployment = replace(made.deployment, opener=opener_of(made.deployment.store.vault))
    erasure.expire(deployment)  # publishes the first key
    key = SealKeyFile(tmp_path / "seal.pub")
    at = made.clock()

    def segment(text: str) -> Path:
        path = tmp_path / "capture" / f"{made.clock():015d}-run-{made.clock()}.seg"
        writer = SegmentWriter(path, key())
        writer.append([sample(made, text, "eve")])
        writer.close()
        return path

    shutil.copy(segment(SECRET), tmp_path / "backup.seg")
    assert [r.sample.input.text for r, _ in read_segment(tmp_path / "backup.seg", 0, deployment.opener)] == [SECRET]
    assert observe(deployment) == 1
    made.clock.now_ms += 1000
    with deployment.store.writing(made.clock()) as unit:
        erasure.erase(unit, deployment, NAME, caller="eve", person="stu", reason="asked to")
    made.clock.now_ms += 2 * 3_600_000
    segment("a later text")
    observe(deployment)  # the segment before the last is read to its end and left: it goes
    erasure.expire(deployment)
    with pytest.raises(SealedSegment):
        list(read_segment(tmp_path / "backup.seg", 0, deployment.opener))
    with deployment.store.reading() as unit:
        row = samples.decision(unit, "d-2", NAME)
    assert row is not None and row[0].text == "a later text" and made.clock() > at


def test_the_ledger_says_who_erased_and_why_and_never_whom(made: World) -> None:
    erase(made, decision="d-1")
    with made.deployment.store.reading() as unit:
        said = [e for e in ledger.entries(unit.connection, 0, 1000) if e.action == "capture.erased"]
        row = samples.decision(unit, "d-1", NAME)
    assert [(e.actor, e.detail["reason"], e.detail["what"]) for e in said] == [
        ("stu", "asked to", "caller of a decision")
    ]
    assert b"eve" not in said[0].body and pseudonym("r-0", "eve").encode() not in said[0].body
    assert row is not None and (row[0].text, row[0].subject, row[0].input_digest) == ("", "", "")
    assert row[0].decision == "allow" and row[0].sealed_text  # the decision itself is still explained


def test_everything_goes_and_what_comes_later_is_kept(made: World) -> None:
    erase(made, everything=True)
    assert texts(made.deployment.store) == set()
    made.capture([sample(made, "a later text", "eve")], "000000000000002-run-000001.seg")
    observe(made.deployment)
    with made.deployment.store.reading() as unit:
        row = samples.decision(unit, "d-3", NAME)
    assert row is not None and row[0].text == "a later text"


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"caller": "nobody"}, StepRefused),
        ({"decision": "d-9"}, StepRefused),
        ({}, RequestInvalid),
        ({"caller": "eve", "everything": True}, RequestInvalid),
    ],
    ids=["an unknown caller", "an unknown decision", "nothing", "two at once"],
)
def test_a_request_that_says_not_exactly_whom_erases_nothing(made: World, what: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        erase(made, **what)
    assert texts(made.deployment.store) == {SECRET, "words of another"}


def test_inputs_expire_by_the_day_with_a_ledger_entry_and_unread_segments_with_them(
    made: World, tmp_path: Path
) -> None:
    left = tmp_path / "capture" / "damaged" / "000000000000009-x-000000.seg"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"damaged")
    erasure.expire(made.deployment)
    assert texts(made.deployment.store) and left.exists()
    made.clock.now_ms += 32 * DAY_MS
    os.utime(left, (0, 0))
    erasure.expire(made.deployment)
    erasure.expire(made.deployment)
    assert texts(made.deployment.store) == set() and not left.exists()
    with made.deployment.store.reading() as unit:
        said = [e.detail for e in ledger.entries(unit.connection, 0, 1000) if e.action == "capture.expired"]
    assert [one.get("keys", one.get("segments")) for one in said] == [2, 1]
    assert erasure.retention(made.deployment, NAME).keys == 0


def test_the_file_of_keys_is_its_owner_s_alone(made: World, tmp_path: Path) -> None:
    assert (tmp_path / "capture.keys").stat().st_mode & 0o777 == 0o600


@settings(max_examples=30)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 7))
def test_whatever_is_sealed_opens_as_it_was_or_not_at_all(data: bytes, place: int, bit: int) -> None:
    vault = Vault(None)
    name = KeyId("words", "2026-01-02", "0123456789abcdef")
    (sealed,) = vault.seal([(name, data)])
    assert vault.open(sealed) == data and key_of(sealed) == name
    changed = bytearray(sealed)
    changed[place % len(sealed)] ^= 1 << bit
    with contextlib.suppress(VaultBroken):
        assert vault.open(bytes(changed)) is None  # it names a key that there is not
    vault.destroy("words")
    assert vault.open(sealed) is None


def test_a_reason_that_names_the_caller_never_enters_the_ledger(made: World) -> None:
    with made.deployment.store.writing(made.clock()) as unit, pytest.raises(RequestInvalid, match="names the caller"):
        erasure.erase(unit, made.deployment, NAME, caller="eve", person="stu", reason="(eve) asked to")
