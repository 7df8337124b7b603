"""A bare grpc.aio server on uvloop: parse the request, answer a constant score."""

from pathlib import Path

from perf.peers.peer import Command, Peer
from perf.processes import ROOT

SERVER = Path(__file__).with_name("serve_grpc_aio.py")


def _commands(python: Path, folder: Path, port: int) -> list[Command]:
    return [Command([str(python), str(SERVER), str(port)], {"PYTHONPATH": str(ROOT)})]


PEER = Peer("grpc_aio", ("grpcio>=1.76", "protobuf>=6.31,<8", "uvloop>=0.21"), "grpcio", _commands)
