"""SGLang on a processor without a GPU, with whatever model lies in the folder ``model``.

It is installed without the libraries that are built for a GPU; ``serve_sglang.py`` says what stands for them.
"""

import subprocess
from pathlib import Path

from perf.peers.peer import Command, Peer, PeerUnavailable
from perf.request import MODEL

VERSION = "0.5.23"
SCRIPT = Path(__file__).with_name("serve_sglang.py")
TOKENS = "16384"  # that its cache has room for
SILENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
NEEDED = (
    "torch==2.13.0",
    "torchvision==0.28.0",
    "triton",
    "transformers==5.19.0",
    "tokenizers==0.23.2",
    "xgrammar==0.2.7",
    "llguidance>=1.7.6,<2",
    "outlines==0.1.11",
    "compressed-tensors==0.18.0",
    "apache-tvm-ffi==0.1.11",
    "openai==2.8.0",
    "openai-harmony==0.0.4",
    "mistral_common>=1.11.5",
    "kernels>=0.14.1,<0.15",
    "numba==0.65.1",
    "smg-grpc-servicer==0.14.1",
    "uvicorn>=0.51",
    "aiohttp",
    "anthropic",
    "blobfile",
    "datasets",
    "distro",
    "easydict",
    "einops",
    "fastapi",
    "gguf",
    "interegular",
    "ipython",
    "modelscope",
    "msgspec",
    "ninja",
    "nvidia-ml-py",
    "orjson",
    "partial-json-parser",
    "pillow",
    "prometheus-client",
    "psutil",
    "pybase64",
    "python-multipart",
    "pyzmq",
    "requests",
    "scipy",
    "sentencepiece",
    "setproctitle",
    "soundfile",
    "tiktoken",
    "uvloop",
    "watchfiles",
    "xxhash",
    "zstandard",
)


def _prepare(python: Path) -> None:
    argv = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", f"sglang=={VERSION}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise PeerUnavailable(f"sglang=={VERSION} cannot be installed: {' '.join(done.stderr.split())[-300:]}")


def serve(python: Path, folder: Path, port: int, *options: str) -> Command:
    """Say how to serve the model in ``folder / "model"``; ``options`` are those of SGLang's command line.

    ``-P`` keeps the files beside the script, which have names of libraries, from being taken for them.
    """
    argv = [str(python), "-P", str(SCRIPT), "--model-path", str(folder / "model"), "--served-model-name", MODEL]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    argv += ["--attention-backend", "torch_native", "--lora-backend", "torch_native", "--disable-overlap-schedule"]
    argv += ["--max-total-tokens", TOKENS, "--mem-fraction-static", "0.1", "--skip-server-warmup", *options]
    return Command(argv, {**SILENT, "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"})


PEER = Peer("sglang", NEEDED, "sglang", lambda python, folder, port: [serve(python, folder, port)], _prepare)
