"""``interlock up``: all three processes on one machine, started again when one dies."""

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.cli.output import JsonFlag, Problem, command, console
from controlplane.cli.processes import CONFIG, ConfigOption, control_command, gateway_command, worker_command

FIRST_WAIT_S, MOST_WAIT_S = 0.2, 5.0
HEALTHY_S = 30.0  # a process that lived so long starts again without waiting
STOP_S = 10.0
WRONG_SETTINGS = 2  # starting again cannot mend these
_PR_SET_PDEATHSIG = 1

Say = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class _Child:
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_s: float = FIRST_WAIT_S
    due: float = field(default=0.0)


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
        """Supervise; return the exit code."""
        code = 0
        while not self._is_stopping:
            for name, child in self._children.items():
                found = self._look(name, child)
                if found == WRONG_SETTINGS:
                    code = WRONG_SETTINGS
                    self._is_stopping = True
            self._wake.wait(0.1)
        self._end()
        return code

    def _look(self, name: str, child: _Child) -> int | None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.due:
                child.process = subprocess.Popen(
                    child.command,
                    stdin=subprocess.DEVNULL,
                    cwd=self._cwd,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509
                )
                child.started = now
                self._say({"event": "started", "process": name, "pid": child.process.pid})
            return None
        code = child.process.poll()
        if code is None:
            return None
        if now - child.started >= HEALTHY_S:
            child.wait_s = FIRST_WAIT_S
        self._say({"event": "died", "process": name, "code": code, "restart_in_s": child.wait_s})
        child.process, child.due = None, now + child.wait_s
        child.wait_s = min(2 * child.wait_s, MOST_WAIT_S)
        return code

    def _end(self) -> None:
        running = {
            n: c.process for n, c in self._children.items() if c.process is not None and c.process.poll() is None
        }
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + STOP_S
        for name, process in running.items():
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._say({"event": "stopped", "process": name, "code": process.returncode})


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@command
def up(config: ConfigOption = CONFIG, as_json: JsonFlag = False) -> None:
    """Run worker, control plane and gateway on this machine, and start again what dies."""
    if not config.is_file():
        raise Problem(f"{config} is not a file; `interlock init` writes one", "INVALID_ARGUMENT", WRONG_SETTINGS)
    (config.parent / "run").mkdir(exist_ok=True)
    shown = console()

    def say(event: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            shown.print(" ".join(f"{k}={v}" if k not in ("event", "process") else str(v) for k, v in event.items()))

    commands = {
        "worker": worker_command(config),
        "control": control_command(config),
        "gateway": gateway_command(config),
    }
    supervisor = Supervisor(commands, say)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    os.environ.setdefault("NO_COLOR", "1")
    raise SystemExit(supervisor.run())
