"""A real worker process on a Unix socket."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.frames import PROTOCOL, FrameDecoder, encode
from protos.decide_pb2 import Input
from tests.tasks import TASK

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120  # a limit for what hangs: a busy machine takes most of a minute to load PyTorch beside others
MINUTE_US = 60_000_000


class Peer:
    """A blocking client of one worker."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._decoder = FrameDecoder()
        self._frames: list[engine_pb2.Frame] = []
        self.hello = self.read().hello

    def send(self, *frames: engine_pb2.Frame) -> None:
        self.socket.sendall(b"".join(map(encode, frames)))

    def read(self) -> engine_pb2.Frame:
        while not self._frames:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    def load(self, digest: str) -> engine_pb2.Loaded:
        self.send(engine_pb2.Frame(load=engine_pb2.Load(id=1, bundle_digest=digest)))
        return self.read().loaded

    def ask(self, frame: engine_pb2.Frame) -> engine_pb2.Result:
        self.send(frame)
        return self.read().result


class Running:
    """A worker process and its bundle store."""

    def __init__(self, root: Path, *options: str) -> None:
        self.path = root / "w.sock"
        self.store = BundleStore(root / "bundles")
        command = [
            sys.executable,
            "-m",
            "gateway.worker",
            "--socket",
            str(self.path),
            "--bundles",
            str(self.store.root),
        ]
        self.process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "worker_started" in line:
                return
        raise AssertionError("".join(self.log))

    def bundle(self, **settings: object) -> str:
        return self.store.add(
            task=TASK, engine={"backend": "simulator", **settings}, contents={}, base={}, lineage={"author": "trainer"}
        ).digest

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=PATIENCE_S)
        self.log.append(rest)
        return self.process.returncode


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, "--allow-faults", "--max-queue", "8")
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate()


def job(id: int, bundle: str, text: str = "hello there", remaining_us: int = MINUTE_US) -> engine_pb2.Frame:
    return engine_pb2.Frame(
        job=engine_pb2.Job(id=id, bundle_digest=bundle, remaining_us=remaining_us, input=Input(text=text))
    )


def test_a_worker_introduces_itself_loads_and_answers(worker: Running) -> None:
    peer = Peer(worker.path)
    assert (peer.hello.protocol, peer.hello.max_queue) == (PROTOCOL, 8)
    assert "simulator" in peer.hello.backends
    assert stat.S_IMODE(os.stat(worker.path).st_mode) == 0o600
    digest = worker.bundle()
    for _ in range(2):
        loaded = peer.load(digest)
        assert (loaded.ok, loaded.can_generate, loaded.bundle_digest) == (True, True, digest), loaded.error
    result = peer.ask(job(5, digest, "label:unsafe look at this"))
    assert (result.id, result.status, result.bundle_digest) == (5, engine_pb2.RESULT_STATUS_OK, digest)
    assert (result.label, result.decision, result.batch_size, result.tokens) == (1, 1, 1, 4)
    assert result.score == result.probabilities[1] > 0.9
    peer.send(engine_pb2.Frame(stats_request=engine_pb2.StatsRequest()))
    stats = peer.read().stats
    assert (stats.completed, stats.batches, list(stats.loaded)) == (1, 1, [digest])


def test_a_tampered_bundle_is_refused(worker: Running) -> None:
    digest = worker.bundle()
    manifest = worker.store.path(digest) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"trainer", b"someone"))
    peer = Peer(worker.path)
    loaded = peer.load(digest)
    assert not loaded.ok
    assert "manifest.json hashes to" in loaded.error
    assert peer.ask(job(2, digest)).status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"surprise": 1}, "surprise"), ({"accuracy": 2}, "accuracy")],
)
def test_settings_a_backend_does_not_know_are_refused(
    worker: Running, settings: dict[str, object], message: str
) -> None:
    loaded = Peer(worker.path).load(worker.bundle(**settings))
    assert not loaded.ok
    assert message in loaded.error


def test_wrong_input_is_refused_naming_the_field(worker: Running) -> None:
    peer, digest = Peer(worker.path), worker.bundle()
    peer.load(digest)
    result = peer.ask(job(3, digest, text=" "))
    assert (result.status, "input.text" in result.message) == (engine_pb2.RESULT_STATUS_BAD_INPUT, True)


def test_a_malformed_frame_closes_only_its_own_connection(worker: Running) -> None:
    good, bad, digest = Peer(worker.path), Peer(worker.path), worker.bundle()
    good.load(digest)
    bad.socket.sendall(b"\xff\xff\xff\xff")
    with pytest.raises((EOFError, ConnectionError)):
        bad.read()
    assert good.ask(job(4, digest)).status == engine_pb2.RESULT_STATUS_OK


def test_cancelled_expired_and_surplus_jobs_are_told_so_while_the_device_is_busy(worker: Running) -> None:
    peer, digest = Peer(worker.path), worker.bundle(latency_us=300_000)
    peer.load(digest)
    peer.send(job(1, digest))
    cancel = engine_pb2.Frame(cancel=engine_pb2.Cancel(id=2))
    peer.send(job(2, digest), cancel, job(3, digest, remaining_us=0), *(job(id, digest) for id in range(10, 19)))
    status = {}
    for _ in range(12):
        result = peer.read().result
        assert result.id not in status
        status[result.id] = result.status
    assert status[1] == engine_pb2.RESULT_STATUS_OK
    assert status[3] == engine_pb2.RESULT_STATUS_EXPIRED
    assert status[2] == engine_pb2.RESULT_STATUS_CANCELLED
    assert engine_pb2.RESULT_STATUS_OVERLOADED in [status[id] for id in range(10, 19)]


@pytest.mark.parametrize("kind", [engine_pb2.FAULT_KIND_INVERT, engine_pb2.FAULT_KIND_ERROR])
def test_a_fault_breaks_answers_until_it_is_healed(worker: Running, kind: engine_pb2.FaultKind) -> None:
    peer, digest = Peer(worker.path), worker.bundle()
    peer.load(digest)

    def inject(what: engine_pb2.FaultKind) -> bool:
        fault = engine_pb2.InjectFault(id=9, bundle_digest=digest, kind=what)
        peer.send(engine_pb2.Frame(inject_fault=fault))
        return peer.read().fault_injected.ok

    before = peer.ask(job(1, digest))
    assert inject(kind)
    during = peer.ask(job(2, digest))
    assert (during.status, during.label) != (before.status, before.label)
    assert inject(engine_pb2.FAULT_KIND_NONE)
    assert list(peer.ask(job(3, digest)).probabilities) == list(before.probabilities)


def test_a_generation_streams_and_stops_when_cancelled(worker: Running) -> None:
    peer, digest = Peer(worker.path), worker.bundle(latency_us=1000)
    peer.load(digest)

    def generate(id: int, max_tokens: int) -> None:
        request = engine_pb2.GenerateJob(
            id=id, bundle_digest=digest, remaining_us=MINUTE_US, input=Input(text="x"), max_tokens=max_tokens
        )
        peer.send(engine_pb2.Frame(generate=request))

    generate(1, 3)
    chunks = [peer.read().chunk for _ in range(4)]
    assert [(c.last, c.tokens) for c in chunks] == [(False, 1), (False, 2), (False, 3), (True, 3)]
    generate(2, 4000)
    peer.read()
    peer.send(engine_pb2.Frame(cancel=engine_pb2.Cancel(id=2)))
    chunk = peer.read().chunk
    while not chunk.last:
        chunk = peer.read().chunk
    assert chunk.status == engine_pb2.RESULT_STATUS_CANCELLED
    assert chunk.tokens < 4000


def test_sigterm_finishes_what_waits(worker: Running) -> None:
    peer, digest = Peer(worker.path), worker.bundle(latency_us=100_000)
    peer.load(digest)
    stats = engine_pb2.Frame(stats_request=engine_pb2.StatsRequest())
    peer.send(*(job(id, digest) for id in range(1, 5)), stats)
    assert peer.read().WhichOneof("body") == "stats"  # so the jobs were read before the signal
    assert worker.stop() == 0
    answers = []
    with contextlib.suppress(EOFError):
        while True:
            answers.append(peer.read().result)
    assert sorted((r.id, r.status) for r in answers) == [(id, engine_pb2.RESULT_STATUS_OK) for id in range(1, 5)]
    assert not worker.path.exists()


def test_faults_need_the_flag(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        peer = Peer(running.path)
        peer.send(engine_pb2.Frame(inject_fault=engine_pb2.InjectFault(id=1, kind=engine_pb2.FAULT_KIND_ERROR)))
        answer = peer.read().fault_injected
        assert (answer.ok, "--allow-faults" in answer.error) == (False, True)
    finally:
        assert running.stop() == 0


def test_a_dead_workers_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    first = Running(tmp_path)
    command = [sys.executable, "-m", "gateway.worker", "--socket", str(first.path), "--bundles", str(tmp_path)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (second.returncode, "belongs to a worker that is running" in second.stderr) == (1, True)
    first.process.kill()
    first.process.communicate()
    assert first.path.exists()
    third = Running(tmp_path)
    assert Peer(third.path).hello.protocol == PROTOCOL
    assert third.stop() == 0


@pytest.mark.parametrize("extra", [["--max-queue", "0"], ["--threads", "many"], ["--surprise"]])
def test_wrong_use_exits_with_2_naming_the_option(tmp_path: Path, extra: list[str]) -> None:
    command = [sys.executable, "-m", "gateway.worker", "--socket", "s", "--bundles", str(tmp_path), *extra]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert extra[0] in done.stderr
