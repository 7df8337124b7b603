"""Base models lie once, under the digest of their files, and are read as they were hashed."""

from pathlib import Path

import pytest

from protos.contract.base import BaseInvalid, BaseStore

FILES = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}


def model(folder: Path, **changes: bytes | None) -> Path:
    folder.mkdir()
    for name, data in (FILES | {"notes.txt": b"left out"} | changes).items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder


def test_a_base_is_named_by_its_files_and_adding_it_again_is_harmless(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "bases")
    digest = store.add("tiny", model(tmp_path / "a"))
    assert store.add("tiny", model(tmp_path / "b")) == digest
    assert store.add("tiny", model(tmp_path / "c", **{"config.json": b"{ }"})) != digest
    assert len(store.digests()) == 2
    base = store.listing(digest)
    assert (base.name, base.weights, sorted(base.files)) == ("tiny", ["model.safetensors"], sorted(FILES))
    assert {name: store.read(digest, base, name) for name in base.files} == FILES
    assert not [p for p in store.root.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("missing", list(FILES))
def test_a_folder_that_lacks_a_file_is_refused_and_leaves_nothing(tmp_path: Path, missing: str) -> None:
    store = BaseStore(tmp_path / "bases")
    with pytest.raises(BaseInvalid, match="safetensors" if "safetensors" in missing else missing):
        store.add("tiny", model(tmp_path / "a", **{missing: None}))
    assert list(store.root.iterdir()) == []


def test_an_altered_or_missing_file_is_named(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "bases")
    digest = store.add("tiny", model(tmp_path / "a"))
    base = store.listing(digest)
    (store.path(digest) / "config.json").write_bytes(b"[]")
    with pytest.raises(BaseInvalid, match=r"config\.json hashes to"):
        store.read(digest, base, "config.json")
    (store.path(digest) / "config.json").unlink()
    with pytest.raises(BaseInvalid, match=r"config\.json cannot be read"):
        store.read(digest, base, "config.json")


@pytest.mark.parametrize(
    "listing", [b"", b"[]", b'{"schema": "interlock.base/1", "name": "x", "files": {"../x.json": ""}}']
)
def test_a_listing_that_is_none_is_refused(tmp_path: Path, listing: bytes) -> None:
    store = BaseStore(tmp_path / "bases")
    digest = store.add("tiny", model(tmp_path / "a"))
    (store.path(digest) / "base.json").write_bytes(listing)
    with pytest.raises(BaseInvalid, match=r"base\.json"):
        store.listing(digest)
    with pytest.raises(BaseInvalid, match="expected 'sha256:'"):
        store.listing("../x")
