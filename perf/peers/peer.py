"""How a peer is installed and started."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf.processes import ROOT, Processes, free_port

ENVIRONMENTS = ROOT / "var" / "peers" / sys.base_prefix.strip("/").replace("/", "-")  # of the Python that ours run on
STAMP = ".installed"


class PeerUnavailable(Exception):
    """A peer cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process of a peer."""

    argv: list[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with.

    Attributes:
        requirements: What pip installs into its environment.
        package: Whose version is reported.
        commands: Given the environment's python, an empty folder and a port, what to run.
        prepare: Given the environment's python, what is left to do once all is installed.
    """

    name: str
    requirements: tuple[str, ...]
    package: str
    commands: Callable[[Path, Path, int], list[Command]]
    prepare: Callable[[Path], None] = lambda python: None

    @property
    def environment(self) -> Path:
        """Where it is installed; peers of one package share it."""
        return ENVIRONMENTS / self.package

    @property
    def is_installed(self) -> bool:
        """Whether all it wants is in its environment."""
        stamp = self.environment / STAMP
        return stamp.exists() and stamp.read_text() == "\n".join(self.requirements)

    def install(self) -> Path:
        """Make its environment unless it exists, and return its python; raises PeerUnavailable."""
        environment = self.environment
        python = environment / "bin" / "python"
        if self.is_installed:
            return python
        print(f"  installing {self.name}: {', '.join(self.requirements)}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *self.requirements])
        self.prepare(python)
        (environment / STAMP).write_text("\n".join(self.requirements))
        return python

    def version(self, python: Path) -> str:
        """Return the installed version of what is compared with."""
        asked = f"from importlib.metadata import version; print(version({self.package!r}))"
        return _run([str(python), "-c", asked]).strip()

    def start(self, processes: Processes, folder: Path) -> str:
        """Start it on the servers' core; returns its address. Raises PeerUnavailable."""
        python = self.install()
        folder.mkdir(parents=True)
        port = free_port()
        for number, command in enumerate(self.commands(python, folder, port)):
            processes.start(f"{self.name}-{number}", command.argv, folder, command.environment)
        return f"127.0.0.1:{port}"


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise PeerUnavailable(f"{' '.join(argv[1:4])} ended with {done.returncode}: {words[-300:]}")
    return done.stdout
