"""Processes that a test starts, with a log each."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Processes:
    """Processes in a folder, by name; ends only what it started."""

    def __init__(self, root: Path, patience_s: float) -> None:
        self.root = root
        self.patience_s = patience_s
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one with its log in ``NAME.log``; ``environment`` is put over this process's own."""
        with (self.root / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.root, stderr=log, env={**os.environ, **environment}
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal one process and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=self.patience_s)

    def end(self) -> None:
        """Kill whatever runs."""
        for name in list(self.processes):
            self.kill(name)

    async def log_value(self, name: str, key: str) -> str:
        """Wait for ``key`` in a process's log and return the word after it."""
        path = self.root / f"{name}.log"
        async with asyncio.timeout(self.patience_s):
            while True:
                for line in path.read_text().splitlines():
                    if key in line:
                        return line.split(key, 1)[1].split()[0]
                assert self.processes[name].poll() is None, path.read_text()
                await asyncio.sleep(0.01)
