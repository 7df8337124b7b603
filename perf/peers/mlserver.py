"""MLServer, in one process, with a model that answers a constant score."""

import json
import shutil
from pathlib import Path

from perf.peers.peer import Command, Peer
from perf.processes import free_port
from perf.request import MODEL

MODEL_FILE = Path(__file__).with_name("mlserver_model.py")


def _commands(python: Path, folder: Path, port: int) -> list[Command]:
    shutil.copy(MODEL_FILE, folder / MODEL_FILE.name)
    server = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "use_structured_logging": False,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    model = {"name": MODEL, "implementation": "mlserver_model.Constant"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    program = python.with_name("mlserver")
    return [Command([str(program), "start", str(folder)], {"PYTHONPATH": str(folder)})]


PEER = Peer("mlserver", ("mlserver>=1.7,<1.8",), "mlserver", _commands)
