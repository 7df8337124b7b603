"""A bundle is its bytes: nothing altered, added or missing is ever loaded."""

from pathlib import Path

import pytest

from protos.contract.bundle import MANIFEST, BundleInvalid, BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.task import TaskSpec
from tests.tasks import TASK


def add(store: BundleStore, name: str = "head.json") -> str:
    return store.add(
        task=TASK,
        engine={"backend": "simulator"},
        contents={name: b'{"temperature":1}'},
        base={},
        lineage={"author": "trainer"},
    ).digest


def test_a_bundle_reads_back_equal_and_adding_twice_is_harmless(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    digest = add(store)
    assert add(store) == digest
    assert store.digests() == [digest]
    bundle = store.load(digest)
    assert bundle.manifest.task == TASK
    assert bundle.contents == {"head.json": b'{"temperature":1}'}


def alter(root: Path, what: str) -> None:
    if what == "file changed":
        (root / "head.json").write_bytes(b'{"temperature":2}')
    elif what == "file missing":
        (root / "head.json").unlink()
    elif what == "file added":
        (root / "extra.json").write_bytes(b"{}")
    elif what == "manifest changed":
        path = root / MANIFEST
        path.write_bytes(path.read_bytes().replace(b"trainer", b"someone"))
    elif what == "manifest missing":
        (root / MANIFEST).unlink()
    elif what == "manifest is not JSON":
        (root / MANIFEST).write_bytes(b"{")
    elif what == "file is a link":
        (root / "head.json").rename(root.parent / "elsewhere.json")
        (root / "head.json").symlink_to(root.parent / "elsewhere.json")


@pytest.mark.parametrize(
    "what",
    [
        "file changed",
        "file missing",
        "file added",
        "manifest changed",
        "manifest missing",
        "manifest is not JSON",
        "file is a link",
    ],
)
def test_an_altered_bundle_is_refused(tmp_path: Path, what: str) -> None:
    store = BundleStore(tmp_path)
    digest = add(store)
    alter(store.path(digest), what)
    with pytest.raises(BundleInvalid, match=digest):
        store.load(digest)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "../escape.json", "/abs.json", "manifest.json"])
def test_only_data_formats_inside_the_bundle_are_accepted(tmp_path: Path, name: str) -> None:
    with pytest.raises(FieldInvalid, match=r"manifest\.files"):
        add(BundleStore(tmp_path), name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["unsafe"]}, "labels"),
        ({"cost": [[0, 1]]}, "cost"),
        ({"score_label": "none"}, "score_label"),
        ({"template": "{other}"}, "template"),
        ({"template": "{text:>2000000000}"}, "template"),
        ({"template": "{text.__class__}"}, "template"),
        ({"template": "{text:{text}}"}, "template"),
        ({"template": "{text"}, "template"),
        ({"deadline_us": 10}, "deadline_us"),
        ({"surprise": 1}, "unknown fields: surprise"),
        ({"max_tokens": True}, "max_tokens"),
    ],
)
def test_a_wrong_task_is_refused_naming_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(FieldInvalid, match=message):
        TaskSpec.from_json({**TASK.to_json(), **change})
