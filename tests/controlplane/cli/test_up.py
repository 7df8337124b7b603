"""Processes: what they are told, and that they live and end as ``interlock up`` says."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli import processes
from controlplane.cli.up import Supervisor
from tests.controlplane.cli.fake import interlock, said

PATIENCE_S = 20.0
SLEEPER = ["sleep", "600"]
# The command itself, its three processes replaced by ones that start at once. It must start them without a fork that
# runs Python: gRPC's threads may hold what such a fork waits for.
UP = """
import os, sys
os.register_at_fork(before=lambda: print("forked", flush=True))
from controlplane.cli import up
from controlplane.cli.app import app
up.control_command = up.gateway_command = lambda config: ["sleep", "600"]
up.worker_command = lambda config: ["sh", "-c", "exec sleep 600", "--socket", str(config.parent / "run" / "s")]
app(["up", "--config", sys.argv[1], "--json"])
"""


class Supervised:
    """A supervisor in a thread, and what it said."""

    def __init__(self, *line: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.supervisor = Supervisor({"one": list(line)}, self._say)
        self.thread = threading.Thread(target=self.supervisor.run, daemon=True)
        self.thread.start()

    def _say(self, event: dict[str, Any]) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def until(self, kind: str, n: int = 1) -> dict[str, Any]:
        with self._news:
            said_ = lambda: [e for e in self.events if e["event"] == kind]  # noqa: E731
            assert self._news.wait_for(lambda: len(said_()) >= n, PATIENCE_S), self.events
            return said_()[n - 1]

    def stop(self) -> None:
        self.supervisor.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def ended(pidfd: int) -> bool:
    """Wait for a process that is nobody's child here."""
    return bool(select.select([pidfd], [], [], PATIENCE_S)[0])


def test_up_starts_a_child_again_and_ends_it_with_itself() -> None:
    one = Supervised(*SLEEPER)
    os.kill(one.until("started")["pid"], signal.SIGKILL)
    assert one.until("died")["code"] == -signal.SIGKILL
    second = one.until("restarted")["pid"]
    one.stop()
    assert one.until("stopped")["code"] == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_each_death_doubles_the_wait() -> None:
    one = Supervised("false")
    waits = [one.until("died", n)["restart_in_s"] for n in (1, 2, 3)]
    one.stop()
    assert waits == [0.2, 0.4, 0.8]


def test_up_gives_up_on_settings_that_are_wrong() -> None:
    events: list[dict[str, Any]] = []
    other = {"other": SLEEPER, "one": ["sh", "-c", "exit 2"]}
    assert Supervisor(other, events.append).run() == 2
    assert [(e["event"], e["process"]) for e in events[2:]] == [("died", "one"), ("stopped", "other")]


def test_a_process_that_once_ran_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    one = Supervised("sh", "-c", f"test -e {flag} && exit 2; touch {flag}; exit 1")
    assert one.until("died", 2)["code"] == 2
    one.until("restarted", 2)
    one.stop()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    config = tmp_path / "interlock.toml"
    config.write_text("")
    line = [sys.executable, "-c", UP, str(config)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate(timeout=PATIENCE_S)


def started(up: subprocess.Popen[str]) -> dict[str, int]:
    assert up.stdout is not None
    events = [json.loads(up.stdout.readline()) for _ in range(3)]
    assert {e["event"] for e in events} == {"started"}
    return {e["process"]: e["pid"] for e in events}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_all_three_and_the_command_exits_with_0(up: subprocess.Popen[str], number: int) -> None:
    assert set(started(up)) == {"worker", "control", "gateway"}
    up.send_signal(number)
    out, err = up.communicate(timeout=PATIENCE_S)
    assert (up.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["stopped"] * 3


def test_children_die_when_up_is_killed(up: subprocess.Popen[str]) -> None:
    watched = [os.pidfd_open(pid) for pid in started(up).values()]
    up.kill()
    try:
        assert all(ended(pidfd) for pidfd in watched)
    finally:
        for pidfd in watched:
            os.close(pidfd)


def worker(tmp_path: Path, more: str = "") -> Path:
    config = tmp_path / "interlock.toml"
    config.write_text(f'[worker]\nsocket = "run/w.sock"\nbundles_dir = "b"\n{more}\n')
    return config


@pytest.mark.parametrize("wrong", ["faults = true", "threads = 0", 'threads = "2"', "allow_faults = 1"])
def test_an_unknown_or_wrong_setting_of_the_worker_stops_it_with_exit_code_2(tmp_path: Path, wrong: str) -> None:
    code, text = interlock("worker", "serve", "--config", str(worker(tmp_path, wrong)))
    assert code == 2 and wrong.split()[0] in text


def test_the_worker_is_told_its_settings(tmp_path: Path) -> None:
    more = 'threads = 3\ntoken_budget = 64\nmax_queue = 9\nworker_id = "w"\nallow_faults = true'
    line = processes.worker_command(worker(tmp_path, more))
    assert line[:3] == [sys.executable, "-m", "gateway.worker"]
    told = dict(zip(line[3:-1:2], line[4:-1:2], strict=True))
    paths = {"--socket": str(tmp_path / "run" / "w.sock"), "--bundles": str(tmp_path / "b")}
    sizes = {"--threads": "3", "--token-budget": "64", "--max-queue": "9"}
    assert told == {**paths, **sizes, "--worker-id": "w"}
    assert line[-1] == "--allow-faults"


def test_serve_becomes_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    monkeypatch.setattr(processes, "_become", lines.append)
    config = str(worker(tmp_path))
    for name in ("gateway", "control", "worker"):
        assert interlock(name, "serve", "--config", config, "--json")[0] == 0
    assert [line[2:4] for line in lines[:2]] == [["gateway", "--config"], ["controlplane", "--config"]]
    assert (tmp_path / "run").is_dir()  # the worker expects its socket's folder


def test_up_needs_settings(tmp_path: Path) -> None:
    code, found = said("up", "--config", str(tmp_path / "missing.toml"))
    assert code == 2 and "interlock init" in found["error"]["message"]
