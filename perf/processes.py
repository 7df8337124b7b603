"""Processes on the servers' core, ended with everything they started."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
STOP_S = 20.0
NICENESS = 10  # of what shares the generator's core with it


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_core() -> int:
    """Return the core that servers get."""
    return min(os.sched_getaffinity(0))


def load_core() -> int:
    """Return the core that the load generator gets."""
    return max(os.sched_getaffinity(0))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have processes that this thread starts run on one core, from their first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def give_way() -> None:
    """Have this thread yield to the load generator, whose core it shares."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Processes:
    """What was started here, by name. Use as a context manager."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, argv: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; what it says goes into a log."""
        with on_core(server_core()), (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1", **environment},
                start_new_session=True,
            )
        self._all[name] = process
        return process

    def log(self, name: str) -> str:
        """Return what a process has said."""
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def has_failed(self) -> str | None:
        """Return the last words of a process that ended by itself, if there is one."""
        for name, process in self._all.items():
            if process.poll() is not None:
                words = " ".join(self.log(name).split())
                return f"{name} ended with {process.returncode}: {words[-300:]}"
        return None

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one process."""
        self._all[name].send_signal(number)

    def pid(self, name: str) -> int:
        """Return a process id."""
        return self._all[name].pid

    def stop(self) -> None:
        """Ask every process to end, the last one first, and see that nothing of it stays."""
        for process in reversed(self._all.values()):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
        self._all.clear()


def family(pid: int) -> list[int]:
    """Return a process and everything it started that still runs."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def resident_mb(*pids: int) -> float:
    """Return the resident memory of processes."""
    pages = 0
    for member in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def cpu_s(*pids: int) -> float:
    """Return the processor time that processes have used, in seconds."""
    ticks = 0
    for member in pids:
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process and what it started hold open."""
    return sum(len(os.listdir(f"/proc/{member}/fd")) for member in family(pid))
