"""KServe's Python server, with a program of its own in the folder: ``server.py``, given its two ports."""

from pathlib import Path

from perf.peers.peer import Command, Peer
from perf.processes import free_port


def _commands(python: Path, folder: Path, port: int) -> list[Command]:
    return [Command([str(python), str(folder / "server.py"), str(port), str(free_port())], {})]


PEER = Peer("kserve", ("kserve>=0.21,<0.22",), "kserve", _commands)
