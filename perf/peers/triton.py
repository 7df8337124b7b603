"""Triton, the server inside the ``nvidia-pytriton`` wheel, with a Python model that answers a constant score.

The wheel's own Python layer is not used: the server is run as NVIDIA's container runs it.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from perf.peers.peer import Command, Peer, PeerUnavailable
from perf.processes import free_port
from perf.request import MODEL

MODEL_FILE = Path(__file__).with_name("triton_model.py")
CONFIG = f"""name: "{MODEL}"
backend: "python"
max_batch_size: 32
dynamic_batching {{}}
input [{{ name: "text", data_type: TYPE_STRING, dims: [ 1 ] }}]
output [{{ name: "score", data_type: TYPE_FP32, dims: [ 1 ] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
"""


def _commands(python: Path, folder: Path, port: int) -> list[Command]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = python.parents[1] / "lib" / f"python{version}" / "site-packages"
    shipped = packages / "pytriton" / "tritonserver"
    server = folder / "tritonserver"
    shutil.copytree(shipped, server)
    stub = server / "python_backend_stubs" / version
    if not stub.is_dir():
        raise PeerUnavailable(f"the wheel has no Python backend for {version}")
    shutil.copytree(stub, server / "backends" / "python", dirs_exist_ok=True)
    models = folder / "models"
    (models / MODEL / "1").mkdir(parents=True)
    (models / MODEL / "config.pbtxt").write_text(CONFIG)
    shutil.copy(MODEL_FILE, models / MODEL / "1" / "model.py")
    argv = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={server / 'backends'}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--http-address=127.0.0.1",
        f"--http-port={free_port()}",
        "--allow-metrics=false",
        "--log-verbose=0",
    ]
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
    path = f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
    return [Command(argv, {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(packages), "PATH": path})]


PEER = Peer("triton", ("nvidia-pytriton",), "nvidia-pytriton", _commands)
