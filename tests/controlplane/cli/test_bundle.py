"""``interlock bundle``: what it makes verifies, and goes to other stores and back."""

import json
import os
import resource
import struct
import time
from pathlib import Path

import pytest

from protos.contract.base import BaseInvalid, BaseStore
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.cached_store import cached, cached_bases
from protos.contract.url_store import UrlStore, bases_of, open_store
from tests.controlplane.cli.bundles import SAFETENSORS, base_folder, definition, run
from tests.controlplane.elsewhere import ENGINE, elsewhere
from tests.tasks import TASK


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def tensors(named: dict[str, tuple[str, list[int], int, int]]) -> bytes:
    """Write a file of 4 bytes of tensors, whatever its header says."""
    header = {n: {"dtype": d, "shape": s, "data_offsets": [a, b]} for n, (d, s, a, b) in named.items()}
    return safetensors(json.dumps(header).encode(), b"\0" * 4)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "bundles")


def test_a_built_bundle_is_inspected_verified_and_compared(tmp_path: Path, store: str) -> None:
    folder = definition(tmp_path / "one")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(SAFETENSORS)
    first = run("bundle", "build", str(folder), "--author", "ann", "--store", store)["digest"]
    assert run("bundle", "build", str(folder), "--author", "ann", "--store", store)["digest"] == first
    definition(folder, 'backend = "simulator"\nseed = 7')
    second = run("bundle", "build", str(folder), "--author", "ann", "--store", store)["digest"]
    shown = run("bundle", "inspect", first[7:15], "--store", store)
    assert (shown["digest"], shown["lineage"], shown["engine"]) == (first, {"author": "ann"}, {"backend": "simulator"})
    assert set(shown["files"]) == {"adapter/adapter_model.safetensors"}
    assert run("bundle", "verify", "--store", store)["verified"]
    changes = run("bundle", "diff", first, second, "--store", store)["changes"]
    assert changes == [{"field": "engine.seed", "first": None, "second": 7}]
    (BundleStore(Path(store)).path(first) / "adapter" / "adapter_model.safetensors").write_bytes(SAFETENSORS + b" ")
    checked = run("bundle", "verify", "--store", store, code=1)
    assert not checked["verified"]
    (bad,) = [b for b in checked["bundles"] if not b["ok"]]
    assert bad["digest"] == first
    assert "hashes to" in bad["problem"]


def test_probes_are_answered_by_the_engine_and_recorded(tmp_path: Path, store: str) -> None:
    folder = definition(tmp_path / "one")
    probes = ("--probe", "label:unsafe page", "--probe", "a page")
    digest = run("bundle", "build", str(folder), "--author", "ann", "--store", store, *probes)["digest"]
    kept = json.loads(BundleStore(Path(store)).load(digest).contents["probes.json"])
    assert [p["text"] for p in kept["probes"]] == ["label:unsafe page", "a page"]
    assert kept["probes"][0]["probabilities"][1] > 0.9


def test_a_bundle_of_a_server_elsewhere_is_probed_and_measured_there(tmp_path: Path, store: str) -> None:
    rows = {f"{label} page {i}": label for i in range(12) for label in TASK.labels}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in rows.items()))
    folder = definition(tmp_path / "one", "".join(f"{k} = {json.dumps(v)}\n" for k, v in ENGINE.items()))
    build = ("bundle", "build", str(folder), "--author", "ann", "--store", store, "--probe", "unsafe page 3")
    with elsewhere(tmp_path, TASK, rows) as far:
        table = "".join(f"{k} = {json.dumps(v)}\n" for k, v in far.declared[0].to_json().items())
        (tmp_path / "interlock.toml").write_text(f"[[gateway.engines]]\n{table}")
        config = ("--config", str(tmp_path / "interlock.toml"))
        digest = run(*build, *config)["digest"]
        probes = json.loads(BundleStore(Path(store)).load(digest).contents["probes.json"])["probes"]
        assert probes[0]["probabilities"] == pytest.approx([0.04, 0.96], abs=1e-6)
        few = ("--gateway-cases", "0", "--robustness-cases", "0", "--rounds", "100")
        data = ("--data", str(tmp_path / "rows.jsonl"))
        measure = ("eval", "run", TASK.name, "--bundle", digest, "--bundles", store, *data, *config)
        found = run(*measure, *few)
        assert found["models"]["bundle"]["accuracy"]["value"] == 1.0
        assert found["elsewhere"]["bundle"]["servers"][0]["model"] == "tiny/decoder"
        assert "they declare none" in run(*build, code=1)["error"]["message"]
        far.model.known["unsafe page 3"] = "safe"
        assert "self-test 0" in run(*measure, code=1)["error"]["message"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.pkl", b"x", "code and pickles never are"),
        ("m.safetensors", b"short", "is no safetensors"),
        ("m.safetensors", struct.pack("<Q", 10**9) + b"{}", "longer than the file"),
        ("m.safetensors", SAFETENSORS + b"more", "expected 0"),
        ("head.json", b'{"schema":"interlock.head/1","temperature":0}', "temperature"),
        ("probes.json", b'{"schema":"interlock.probes/1","probes":[{"text":"a","probabilities":[1]}]}', "sum to 1"),
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"[" * 100_000, "config.json is not JSON"),
        ("probes.json", b"[" * 100_000, "probes.json is not JSON"),
        ("m.safetensors", safetensors(b"[" * 100_000), "is no safetensors: RecursionError"),
        ("m.safetensors", tensors({"a": ("F32", [1], 0, 4), "b": ("F32", [1], 0, 4)}), "b begins at byte 0"),
        ("m.safetensors", tensors({"a": ("F32", [1], -4, 4)}), "expected whole numbers"),
        ("m.safetensors", tensors({"a": ("F32", [2], 0, 4)}), "4 bytes of F32, expected those of shape [2]"),
        ("m.safetensors", tensors({"a": ("PICKLE", [1], 0, 4)}), "dtype is 'PICKLE'"),
        ("a\nb.json", b"{}", "expected a path of printable characters"),
        ("\udcff.json", b"{}", "expected a path of printable characters"),
    ],
)
def test_files_that_could_not_be_loaded_are_not_built_in(
    name: str, data: bytes, message: str, tmp_path: Path, store: str
) -> None:
    folder = definition(tmp_path / "one")
    (folder / name).write_bytes(data)
    said = run("bundle", "build", str(folder), "--author", "ann", "--store", store, code=2)
    assert message in said["error"]["message"]
    assert BundleStore(Path(store)).digests() == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["adapter", "link.json", "pipe.json"])
def test_what_is_no_plain_file_is_refused_and_not_left_out(name: str, tmp_path: Path, store: str) -> None:
    folder = definition(tmp_path / "one")
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "adapter_config.json").write_text("{}")
    if name == "pipe.json":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(tmp_path / "aside")
    said = run("bundle", "build", str(folder), "--author", "ann", "--store", store, code=2)
    assert f"{folder / name} is no plain file" in said["error"]["message"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "is not TOML in UTF-8"),
        (b"a = " + b"9" * 5000, "is not TOML in UTF-8"),
        (b"a = " + b"[" * 5000, "is not TOML in UTF-8"),
    ],
)
def test_a_definition_that_cannot_be_read_is_refused(data: bytes, message: str, tmp_path: Path, store: str) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "bundle.toml").write_bytes(data)
    said = run("bundle", "build", str(folder), "--author", "ann", "--store", store, code=2)
    assert message in said["error"]["message"]


@pytest.mark.parametrize(("author", "message"), [("", "author is ''"), (" ", "author is ' '")])
def test_a_bundle_has_an_author(author: str, message: str, tmp_path: Path, store: str) -> None:
    said = run("bundle", "build", str(definition(tmp_path / "one")), "--author", author, "--store", store, code=2)
    assert message in said["error"]["message"]


def test_more_probes_than_an_engine_reads_are_refused_before_they_are_asked(tmp_path: Path, store: str) -> None:
    probes = [word for i in range(65) for word in ("--probe", f"page {i}")]
    build = ("bundle", "build", str(definition(tmp_path / "one")), "--author", "ann", "--store", store)
    assert "65 times, expected at most 64" in run(*build, *probes, code=2)["error"]["message"]


def test_a_base_whose_weights_could_not_be_read_is_refused(tmp_path: Path, store: str) -> None:
    base = base_folder(tmp_path, "base")
    (base / "model.safetensors").write_bytes(SAFETENSORS + b"more")
    build = ("bundle", "build", str(definition(tmp_path / "one")), "--author", "ann", "--store", store)
    assert "bytes of tensors, expected 0" in run(*build, "--base", str(base), code=2)["error"]["message"]
    assert bases_of(BundleStore(Path(store))).digests() == []


@pytest.mark.parametrize(
    ("engine", "extra", "message"),
    [
        ('backend = "magic"', "", "backend is 'magic'"),
        ('backend = "trtllm-grpc"', "", "gives topk label probabilities, expected exact"),
        ('backend = "simulator"', "[surprise]\na = 1\n", "unknown fields: surprise"),
        ('backend = "simulator"', '[base]\nname = "x"\n', "digest is missing"),
        ('backend = "simulator"', "[lineage]\nmade = 2026-11-29\n", "manifest.lineage.made is datetime.date"),
        ('backend = "simulator"', "[lineage]\nloss = nan\n", "manifest.lineage.loss is nan"),
        (
            'backend = "simulator"',
            "[lineage]\nrows = [9007199254740992]\n",
            "manifest.lineage.rows[0] is 9007199254740992",
        ),
    ],
)
def test_a_definition_that_cannot_serve_is_refused_naming_the_field(
    engine: str, extra: str, message: str, tmp_path: Path, store: str
) -> None:
    folder = definition(tmp_path / "one", engine, extra)
    said = run("bundle", "build", str(folder), "--author", "ann", "--store", store, code=2)
    assert message in said["error"]["message"]


@pytest.mark.parametrize("kind", ["memory", "file", "directory"])
def test_a_bundle_goes_to_another_store_and_back_unchanged(kind: str, tmp_path: Path, store: str) -> None:
    there = {
        "memory": f"memory://interlock-{tmp_path.name}",
        "file": f"file://{tmp_path}/share",
        "directory": str(tmp_path / "share"),
    }[kind]
    folder = definition(tmp_path / "one")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(SAFETENSORS)
    digest = run("bundle", "build", str(folder), "--author", "ann", "--store", store)["digest"]
    sent = run("bundle", "export", digest, "--to", there, "--store", store)
    assert sent["bytes"] == BundleStore(Path(store)).size(digest)
    assert run("bundle", "verify", "--store", there)["bundles"] == [
        {"digest": digest, "ok": True, "problem": "", "base_missing": ""}
    ]
    assert run("bundle", "inspect", digest, "--store", there)["digest"] == digest
    back = str(tmp_path / "back")
    run("bundle", "export", digest, "--to", back, "--store", there)
    assert BundleStore(Path(back)).load(digest) == BundleStore(Path(store)).load(digest)
    other = open_store(there)
    assert abs(other.made(digest) - time.time()) < 600
    if isinstance(other, UrlStore):
        other.files.put(digest, "adapter/adapter_model.safetensors", b"changed")
        assert "hashes to" in run("bundle", "verify", "--store", there, code=1)["bundles"][0]["problem"]
    other.remove(digest)
    assert other.digests() == []


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("inspect", "abc"), "NOT_FOUND"),
        (("verify", "--store", "/nowhere/at/all"), "NOT_FOUND"),
        (("verify", "--store", "magic://x"), "INVALID_ARGUMENT"),
    ],
)
def test_what_is_not_there_is_said(words: tuple[str, ...], status: str, tmp_path: Path, store: str) -> None:
    Path(store).mkdir()
    more = () if "--store" in words else ("--store", store)
    code = 2 if status == "INVALID_ARGUMENT" else 1
    assert run("bundle", *words, *more, code=code)["error"]["status"] == status


def test_an_exported_bundle_takes_its_base_along_and_a_cache_fetches_both(tmp_path: Path, store: str) -> None:
    url = f"memory://interlock-{tmp_path.name}"
    base = ("--base", str(base_folder(tmp_path, "base")))
    built = run("bundle", "build", str(definition(tmp_path / "b")), "--author", "ann", "--store", store, *base)
    digest, base_digest = built["digest"], built["base"]["digest"]
    run("bundle", "export", digest, "--store", store, "--to", url)

    here, bases = cached(tmp_path / "here", url), cached_bases(tmp_path / "here" / "bases", url)
    with pytest.raises(BundleInvalid, match="manifest.json cannot be read"):
        here.manifest(digest)  # asked where nothing may wait
    here.fetch(digest)
    assert here.manifest(digest).digest == digest
    assert bases.read(base_digest, bases.listing(base_digest), "model.safetensors") == SAFETENSORS
    (here.path(digest) / "manifest.json").write_text("{}")  # altered here: fetched again
    assert here.load(digest) == BundleStore(Path(store)).load(digest)
    origin = open_store(url)
    origin.remove(digest)
    assert here.load(digest).digest == digest  # the origin may be gone
    with pytest.raises(BundleInvalid, match="cannot be read"):
        here.load("sha256:" + "2" * 64)
    bases_of(origin).files.put(base_digest, "model.safetensors", b"changed")  # type: ignore[attr-defined]
    with pytest.raises(BaseInvalid, match="model.safetensors hashes to"):
        cached_bases(tmp_path / "elsewhere", url).listing(base_digest)
    assert BaseStore(tmp_path / "elsewhere").digests() == []  # nothing half-written


def test_what_was_altered_in_a_store_is_replaced_by_what_is_built_or_exported_there(tmp_path: Path, store: str) -> None:
    folder = definition(tmp_path / "one")
    (folder / "m.safetensors").write_bytes(SAFETENSORS)
    base = base_folder(tmp_path, "base")
    build = ("bundle", "build", str(folder), "--author", "ann", "--base", str(base))
    there = str(tmp_path / "there")
    built = run(*build, "--store", store)
    digest, base_digest = built["digest"], built["base"]["digest"]
    run("bundle", "export", digest, "--store", store, "--to", there)
    for where, again in (
        (store, (*build, "--store", store)),
        (there, ("bundle", "export", digest, "--store", store, "--to", there)),
    ):
        kept = BundleStore(Path(where))
        for broken in (
            kept.path(digest) / "m.safetensors",
            kept.path(digest) / "manifest.json",
            bases_of(kept).path(base_digest) / "model.safetensors",
            bases_of(kept).path(base_digest) / "base.json",
        ):
            broken.write_bytes(b"changed")
            run(*again)
            assert run("bundle", "verify", digest, "--store", where)["verified"], broken


def test_a_base_that_is_not_beside_its_bundle_is_said(tmp_path: Path, store: str) -> None:
    base = ("--base", str(base_folder(tmp_path, "base")))
    built = run("bundle", "build", str(definition(tmp_path / "b")), "--author", "ann", "--store", store, *base)
    bases_of(BundleStore(Path(store))).remove(built["base"]["digest"])
    (found,) = run("bundle", "verify", "--store", store)["bundles"]
    assert (found["ok"], found["base_missing"]) == (True, built["base"]["digest"])
    sent = run("bundle", "export", built["digest"], "--store", store, "--to", str(tmp_path / "there"))
    assert sent["base_missing"] == built["base"]["digest"]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_that_is_named_like_no_digest_is_not_a_bundle(prefix: str, tmp_path: Path, store: str) -> None:
    digest = run("bundle", "build", str(definition(tmp_path / "b")), "--author", "ann", "--store", store)["digest"]
    (Path(store) / ("Z" * 64)).mkdir()
    (Path(store) / ("Z" * 64) / "manifest.json").write_text("{}")
    (found,) = run("bundle", "verify", "--store", prefix + store)["bundles"]
    assert (found["digest"], found["ok"]) == (digest, True)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_store_that_takes_no_more_is_named_and_keeps_nothing_half_written(
    prefix: str, tmp_path: Path, store: str
) -> None:
    folder = definition(tmp_path / "one")
    (folder / "a.json").write_text("{}")
    (folder / "m.safetensors").write_bytes(safetensors(b"{}".ljust(1 << 16)))
    build = ("bundle", "build", str(folder), "--author", "ann", "--store", prefix + store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
    try:
        said = run(*build, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store in said["error"]["message"]
    assert [path for path in Path(store).rglob("*") if path.is_file()] == []
