"""A base model is named by its files, lies once, and is the same bytes for every bundle on it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from protos.contract.base_model import BaseInvalid, BaseRef, BaseStore
from protos.contract.bundle import BundleStore
from protos.contract.digest import digest_json
from protos.contract.fields import FieldInvalid
from tests.tasks import TASK

DIGEST = "sha256:" + "0" * 64


def directory(root: Path) -> Path:
    folder = root / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, never copied")
    (folder / "empty.txt").write_bytes(b"")
    return folder


def test_a_base_is_named_by_its_data_files_and_reads_back_equal(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "bases")
    ref = store.add("tiny", directory(tmp_path))
    assert store.add("tiny", tmp_path / "model") == ref
    assert set(ref.files) == {"config.json", "model.safetensors", "empty.txt"}
    assert ref.digest == digest_json(dict(ref.files))
    assert store.digests() == [ref.digest]
    assert {path: bytes(data) for path, data in store.load(ref).items()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "empty.txt": b"",
    }


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda file: file.write_bytes(b"WEIGHTS"), "hashes to"),
        (lambda file: file.unlink(), "missing"),
        (lambda file: (file.rename(file.with_suffix(".old")), file.symlink_to(file.with_suffix(".old"))), "plain file"),
    ],
    ids=["changed", "missing", "link"],
)
def test_an_altered_base_is_refused_naming_the_file(
    tmp_path: Path, alter: Callable[[Path], object], message: str
) -> None:
    store = BaseStore(tmp_path / "bases")
    ref = store.add("tiny", directory(tmp_path))
    alter(store.path(ref.digest) / "model.safetensors")
    with pytest.raises(BaseInvalid, match=rf"model\.safetensors .*{message}"):
        store.load(ref)


def test_a_directory_without_weights_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(FieldInvalid, match="safetensors"):
        BaseStore(tmp_path / "bases").add("tiny", tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "tiny"}, "digest is missing"),
        ({"name": "tiny", "digest": DIGEST, "files": {"model.safetensors": DIGEST}}, "expected sha256"),
        ({"name": "tiny", "digest": DIGEST, "files": {"../m.safetensors": DIGEST}}, "inside its folder"),
        ({"name": "tiny", "digest": DIGEST, "files": {"model.bin": DIGEST}}, "ending in"),
        ({"name": "tiny", "digest": DIGEST, "kind": "x"}, "unknown fields: kind"),
    ],
)
def test_a_wrong_reference_is_refused_naming_the_field(value: dict[str, object], message: str) -> None:
    with pytest.raises(FieldInvalid, match=message):
        BaseRef.from_json(value, "manifest.base")


def test_bundles_on_one_base_share_its_files(tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    ref = store.bases.add("tiny", directory(tmp_path))
    digests = {
        store.add(
            task=TASK,
            engine={"backend": "simulator"},
            contents={"adapter/adapter_model.safetensors": weights},
            base=ref,
            lineage={},
        ).digest
        for weights in (b"one", b"two")
    }
    assert len(digests) == 2
    assert all(store.manifest(digest).base == ref for digest in digests)
    assert store.digests() == sorted(digests)
