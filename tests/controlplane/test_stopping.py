"""A control plane that is told to stop does so at once, whatever its threads are waiting for."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from controlplane.loop.embedding import NEEDED, BaseEncoder, EmbeddingFailed
from controlplane.loop.observe import observe
from controlplane.loop.threads import Threads
from tests.controlplane.loop.fixture import NAME, world

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
SILENT = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # takes texts, and never answers
CONFIG = f"""
[controlplane]
deployment = "test"
listen = "127.0.0.1:0"
bundles_dir = "bundles"
capture_dir = "capture"
operators = "operators.json"
plan_key = "plan.key"
drift = {{ reference = 60, window = 20 }}
specialists = [{{ pack = "{NAME}" }}]
"""


def embedding_child(parent: int) -> int:
    """Wait for the child that embeds texts and return its process id."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(OSError):  # threads and children end while they are looked at
                for child in (thread / "children").read_text().split():
                    if b"controlplane.training.embed" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        time.sleep(0.01)
    raise AssertionError("no text was embedded")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a child process in /proc")
def test_a_control_plane_that_waits_for_vectors_stops_when_told(tmp_path: Path) -> None:
    for name in NEEDED:
        pytest.importorskip(name)
    found = world(tmp_path)
    found.clock.now_ms = time.time_ns() // 1_000_000
    bundle = found.bundle()
    found.first_plan(bundle)
    found.capture([found.sample(f"page {i}", bundle=bundle) for i in range(60)])
    observe(found.deployment)
    found.deployment.store.close()
    (tmp_path / "interlock.toml").write_text(CONFIG)
    log = (tmp_path / "control.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "controlplane", "--config", str(tmp_path / "interlock.toml")],
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        child = embedding_child(process.pid)
        os.kill(child, signal.SIGSTOP)  # it never answers
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert not Path(f"/proc/{child}").exists()
    finally:
        process.kill()
    assert "control_stopped" in (tmp_path / "control.log").read_text()


def test_closing_an_embedder_frees_whoever_waits_for_its_vectors() -> None:
    embedder = BaseEncoder(SILENT)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            embedder.embed(["a page"])
        except EmbeddingFailed as error:
            failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    embedder.close()
    waiting.join(PATIENCE_S)
    assert len(failed) == 1
    with pytest.raises(EmbeddingFailed, match="closed"):
        embedder.embed(["another"])


def test_threads_that_do_not_end_are_named_and_left() -> None:
    release = threading.Event()

    async def story() -> list[str]:
        threads = Threads({"steps": 1, "drift": 1})
        begun = threading.Event()

        def work() -> None:
            begun.set()
            release.wait(PATIENCE_S)

        stuck = threads.of("drift")(work)
        queued = threads.of("drift")(lambda: None)
        assert await threads.of("steps")(lambda: 7) == 7
        assert begun.wait(PATIENCE_S)
        left = await threads.stop(0.0)
        assert queued.cancelled() and not stuck.done()
        release.set()
        await asyncio.wait_for(stuck, PATIENCE_S)
        return left

    assert asyncio.run(story()) == ["drift"]
