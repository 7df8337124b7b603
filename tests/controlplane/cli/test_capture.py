"""Recorded traffic as a person sees it, from a control plane that really serves it."""

import asyncio
import json
from pathlib import Path

import grpc.aio
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from controlplane.cli.app import app
from controlplane.loop import drift
from controlplane.loop.observe import observe
from controlplane.packs.registry import load_pack
from controlplane.rpc.observe import ObserveService
from controlplane.store.store import Store
from protos import observe_pb2_grpc
from protos.contract.seal import generate_seal_key, read_seal_key
from protos.contract.segment import SegmentWriter
from tests.controlplane.loop.fixture import NAME, World, outcome, world

DRIFT = {"reference": 100, "window": 40, "persistence": 2, "false_alarm_rate": 0.1}


def told(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A deployment with a reference, a calm window, a shifted one, and outcomes of most of it."""
    found = world(tmp_path_factory.mktemp("lived"), drift=DRIFT)
    bundle = found.bundle()
    found.first_plan(bundle)
    for number, (rows, shift) in enumerate(((100, 0.0), (40, 0.0), (40, 1.0)), 1):
        stream = load_pack(NAME).stream(number, shift)
        records = []
        for example in (next(stream) for _ in range(rows)):
            records.append(found.sample(example.text, bundle=bundle, label=example.label, score=0.4))
            said = outcome(found.numbers["sample"], example.label)
            said.outcome.received_at_unix_ms = found.clock() + 2_000
            records.append(said)
        records.append(outcome(1, "unsafe"))
        found.clock.now_ms += 3_600_000
        found.capture(records, f"{number:015d}-run-{number:06d}.seg")
        observe(found.deployment)
        drift.watch(found.deployment)
    (found.root / "capture" / "000000000000004-run-000004.seg").write_bytes(b"nothing that a gateway wrote")
    observe(found.deployment)
    return found


@pytest.fixture
def address(lived: World):
    """The address of a server over that deployment, on a thread of its own."""
    import threading

    started, stop, found = threading.Event(), None, {}

    async def serve() -> None:
        nonlocal stop
        server = grpc.aio.server()

        async def in_thread(work):
            return work()

        observe_pb2_grpc.add_ObserveServiceServicer_to_server(ObserveService(lived.deployment, in_thread), server)
        found["port"] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found["loop"], stop = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield f"127.0.0.1:{found['port']}"
    found["loop"].call_soon_threadsafe(stop.set)
    thread.join(20)


def test_windows_outcomes_and_the_page_tell_what_happened(address: str, tmp_path: Path) -> None:
    code, text = told("capture", "stats", NAME, "--control", address, "--json")
    found = json.loads(text)
    assert code == 0 and found["samples"] == 180 and found["outcomes"] == 180
    assert sum(w["rows"] for w in found["windows"]) == 180
    assert found["maturity"]["due_s"] == pytest.approx(2.0, abs=0.1) and found["matured"]["known"] == 180
    assert [c["decision_id"] for c in found["contradictions"]] in ([], ["d-1"])
    assert max(w["embedding_shift"] for w in found["windows"] if w["embedded"]) > 0.1
    assert found["estimates"][-1]["holds"] in ("yes", "no")
    assert [(k["reason"], k["records"]) for k in found["not_kept"]] == [("segments set aside, damaged", 1)]
    assert told("capture", "stats", NAME, "--control", address)[0] == 0
    page = tmp_path / "drift.html"
    code, _ = told("drift", "report", NAME, "--control", address, "--out", str(page))
    written = page.read_text()
    assert code == 0 and written.count("<svg") >= 5 and "Drift of input" in written
    assert "http://" not in written and "https://" not in written  # it needs nothing else
    code, text = told(
        "capture", "release", NAME, "--source", "x", "--day", "2026-01-01", "--as", "ann", "--reason", "r",
        "--control", address, "--json",
    )  # fmt: skip
    assert code == 1 and json.loads(text)["error"]["status"] == "FAILED_PRECONDITION"


def test_samples_leave_as_parquet_with_their_outcomes_and_chances(lived: World, tmp_path: Path) -> None:
    from controlplane.store.export import export_samples

    assert export_samples(lived.deployment.store, NAME, tmp_path / "out.parquet") == 180
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == 180 and rows[0]["decision_id"] == "d-1" and rows[0]["inclusion"] > 0
    assert all(row["outcome"] for row in rows) and not (tmp_path / "out.parquet.part").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        export_samples(lived.deployment.store, NAME, tmp_path / "folder")
    assert not (tmp_path / "folder.part").exists(), "nothing half-written is left"


@pytest.mark.parametrize(
    ("name", "out", "code", "complaint"),
    [
        ("brand-safety", "out.parquet", 1, "control.db is no file"),
        ("nobody", "out.parquet", 1, "specialist is 'nobody', expected one of brand-safety"),
        ("brand-safety", ".", 2, "is a folder, expected a file to write"),
        ("brand-safety", "none/out.parquet", 2, "none is no folder, expected that of out.parquet"),
    ],
    ids=["no database", "specialist", "folder", "no folder"],
)
def test_an_export_that_cannot_be_is_refused_and_writes_nothing(
    tmp_path: Path, name: str, out: str, code: int, complaint: str
) -> None:
    assert told("init", str(tmp_path / "prod"))[0] == 0
    if name == "nobody":
        Store(f"sqlite:///{tmp_path}/prod/control.db").close()
    before = sorted(tmp_path.iterdir())
    config = ("--config", str(tmp_path / "prod" / "interlock.toml"))
    found_code, text = told("capture", "export", name, "--out", str(tmp_path / out), *config, "--json")
    assert found_code == code and complaint in json.loads(text)["error"]["message"]
    assert sorted(tmp_path.iterdir()) == before


def test_tail_shows_the_newest_records_and_asks_for_the_key_of_sealed_ones(tmp_path: Path) -> None:
    generate_seal_key(tmp_path / "seal.key")
    for number, seal in ((1, None), (2, read_seal_key(tmp_path / "seal.key.pub"))):
        writer = SegmentWriter(tmp_path / f"{number:015d}-run-{number:06d}.seg", seal)
        writer.append([outcome(10 * number + i, "safe") for i in range(3)])
        writer.close()
    code, text = told("capture", "tail", str(tmp_path), "-n", "4", "--key", str(tmp_path / "seal.key"), "--json")
    assert code == 0
    assert [r["outcome"]["decision_id"] for r in json.loads(text)] == ["d-12", "d-20", "d-21", "d-22"]
    code, text = told("capture", "tail", str(tmp_path), "--json")
    message = json.loads(text)["error"]["message"]
    assert code == 1 and "--key" in message and "capture_vault" in message
    assert told("capture", "tail", str(tmp_path / "nowhere"), "--json")[0] == 2


def test_tail_says_so_where_everything_was_read_away(tmp_path: Path) -> None:
    code, text = told("capture", "tail", str(tmp_path))
    assert code == 0 and f"{tmp_path} holds no record" in text.replace("\n", "")
    assert json.loads(told("capture", "tail", str(tmp_path), "--json")[1]) == []


def test_a_database_given_for_the_keys_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    database = tmp_path / "control.db"
    Store(f"sqlite:///{database}").close()
    before = database.read_bytes()
    code, text = told("capture", "tail", str(tmp_path), "--key", str(database), "--json")
    assert code == 2 and "control.db is a database without such keys" in json.loads(text)["error"]["message"]
    assert database.read_bytes() == before
