"""``interlock up``: all three processes on one machine, started again when one dies."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.cli.output import JsonFlag, Problem, command, say
from controlplane.cli.processes import (
    CONFIG,
    ConfigOption,
    control_command,
    gateway_command,
    make_socket_folder,
    worker_command,
)
from protos.contract.children import ending_with_us

FIRST_WAIT_S, MOST_WAIT_S = 0.2, 5.0
LOOK_S = 0.1
HEALTHY_S = 30.0  # a process that lived so long waits as after its first death
STOP_S = 10.0
WRONG_SETTINGS = 2  # at its first start; a process that once ran had good ones

Say = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class _Child:
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    wait_s: float = FIRST_WAIT_S
    due: float = 0.0


class Supervisor:
    """Keeps children running until told to stop; they end with it, even when it is killed."""

    def __init__(self, commands: Mapping[str, list[str]], say: Say, cwd: Path | None = None) -> None:
        self._children = {name: _Child(list(line)) for name, line in commands.items()}
        self._say = say
        self._cwd = cwd
        self._wake = threading.Event()
        self._is_stopping = False

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._is_stopping = True
        self._wake.set()

    def run(self) -> int:
        """Supervise; return the exit code, 2 when a child refuses its settings."""
        code = 0
        try:
            while not self._is_stopping:
                if any(self._refuses(name, child) for name, child in self._children.items()):
                    code = WRONG_SETTINGS
                    break
                self._wake.wait(LOOK_S)
        finally:
            self._end()
        return code

    def _refuses(self, name: str, child: _Child) -> bool:
        """Start a child that is due, note one that died, and say whether it refuses its settings."""
        now = time.monotonic()
        if child.process is None:
            if now >= child.due:
                line = ending_with_us(child.command, by=signal.SIGTERM)  # drained
                child.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, cwd=self._cwd)
                child.started = now
                child.starts += 1
                event = "started" if child.starts == 1 else "restarted"
                self._say({"event": event, "process": name, "pid": child.process.pid})
            return False
        code = child.process.poll()
        if code is None:
            return False
        is_healthy = now - child.started >= HEALTHY_S
        if code == WRONG_SETTINGS and child.starts == 1 and not is_healthy:
            child.process = None
            self._say({"event": "died", "process": name, "code": code})
            return True
        if is_healthy:
            child.wait_s = FIRST_WAIT_S
        self._say({"event": "died", "process": name, "code": code, "restart_in_s": child.wait_s})
        child.process, child.due = None, now + child.wait_s
        child.wait_s = min(2 * child.wait_s, MOST_WAIT_S)
        return False

    def _end(self) -> None:
        running = {
            n: c.process for n, c in self._children.items() if c.process is not None and c.process.poll() is None
        }
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + STOP_S
        for process in running.values():
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name, process in running.items():  # said last: nobody may be left to hear it
            self._say({"event": "stopped", "process": name, "code": process.returncode})


@command
def up(config: ConfigOption = CONFIG, as_json: JsonFlag = False) -> None:
    """Run worker, control plane and gateway on this machine, and start again what dies."""
    if not config.is_file():
        raise Problem(f"{config} is not a file; `interlock init` writes one", "INVALID_ARGUMENT", WRONG_SETTINGS)

    def told(event: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            say(" ".join(f"{k}={v}" if k not in ("event", "process") else str(v) for k, v in event.items()))

    commands = {
        "worker": worker_command(config),
        "control": control_command(config),
        "gateway": gateway_command(config),
    }
    make_socket_folder(commands["worker"])
    supervisor = Supervisor(commands, told)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    os.environ.setdefault("NO_COLOR", "1")
    raise SystemExit(supervisor.run())
