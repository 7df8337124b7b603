"""Other people's servers as processes, each in an environment of its own; INTERLOCK_PEERS=1 has them installed."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from perf.peers.peer import Command, Peer, PeerUnavailable
from perf.processes import free_port

STOP_S = 20.0


class Server:
    """One server, which can be ended and started again at its port."""

    def __init__(self, command: Command, folder: Path, port: int) -> None:
        self.port = port
        self._command = command
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with (self._folder / "server.log").open("ab") as log:
            environment = {**os.environ, **self._command.environment}
            argv = self._command.argv
            self._process = subprocess.Popen(
                argv, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """End it with whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def log(self) -> str:
        """What it said last."""
        return (self._folder / "server.log").read_text(errors="replace")[-3000:]


@contextmanager
def running(
    peer: Peer,
    folder: Path,
    place: Callable[[Path], None],
    command: Callable[[Path, Path, int], Command] | None = None,
) -> Iterator[Server]:
    """Run a server with what ``place`` puts into its folder; skips where it cannot be."""
    if not peer.is_installed and not os.environ.get("INTERLOCK_PEERS"):
        pytest.skip(f"{peer.name} is not installed; INTERLOCK_PEERS=1 installs it")
    try:
        python = peer.install()
        port = free_port()
        folder.mkdir()
        chosen = command(python, folder, port) if command else peer.commands(python, folder, port)[0]
        place(folder)
    except PeerUnavailable as error:
        pytest.skip(str(error))
    server = Server(chosen, folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
