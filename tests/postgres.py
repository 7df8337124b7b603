"""PostgreSQL servers of our own: a fresh cluster in a temporary folder, on a free loopback port."""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg
import pytest

from controlplane.store.store import Store

USER = "postgres"  # the server refuses to run as root, so as root it runs as this user
EMPTY, PREPARED = "template1", "prepared"
# What makes a server last matters to nobody here: no disk is waited for, and nothing runs beside the tests.
OPTIONS = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=16MB"]


def _programs() -> Path | None:
    """Find the newest installed server's programs; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class PostgresServer:
    """Use as a context manager; ``stop`` and ``start`` in between play an outage."""

    def __init__(self) -> None:
        programs = _programs()
        if programs is None:
            pytest.skip("PostgreSQL's server is not installed here")
        self._programs = programs
        self._root = Path(tempfile.mkdtemp(prefix="interlock-postgres-"))
        self._as_user: list[str] = []
        if os.getuid() == 0:
            if shutil.which("runuser") is None:
                pytest.skip("PostgreSQL does not run as root, and runuser is not installed here")
            shutil.chown(self._root, USER)
            self._as_user = ["runuser", "-u", USER, "--"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._data = self._root / "data"
        self._is_prepared = False

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self._port}/{database}"

    def create(self, database: str, *, prepared: bool = False) -> str:
        """Make a database, empty or with every table of ours, and return its URL."""
        if prepared and not self._is_prepared:
            Store(self.create(PREPARED)).close()
            self._is_prepared = True
        with psycopg.connect(f"postgresql://{USER}@127.0.0.1:{self._port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {PREPARED if prepared else EMPTY}")
        return self.url(database)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        ours = [f"listen_addresses=127.0.0.1 -c unix_socket_directories={self._root}", *OPTIONS]
        options = f"-p {self._port} " + " ".join(f"-c {one}" for one in ours)
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._root / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        """End the server at once, connections and all, as a crash would."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def __enter__(self) -> Self:
        plain = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--auth=trust"]
        self._run("initdb", "-D", str(self._data), "-U", USER, *plain)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._root)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._programs / program), *arguments],
            cwd=self._root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}"


@functools.cache
def shared_server() -> PostgresServer:
    """Start the one server that all tests of this process have their databases on; it ends with the process."""
    server = PostgresServer().__enter__()
    atexit.register(server.__exit__)
    return server
