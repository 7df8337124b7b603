"""``python -m perf.gpu``: one-token decisions of a 4B and a 0.6B decoder, in the engine and through the gateway.

Weights are random and built on the spot: latencies are real, answers are not. Results and a picture go to
``perf/results/gpu/``, each latency beside its roofline floor. ``--size tiny`` and ``small`` run the same on a CPU.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from perf.gpu import engine, gateway
from perf.gpu.picture import draw
from perf.gpu.roofline import measure_peaks
from perf.gpu.shapes import SIZES
from perf.results import FOLDER, commit, machine, versions

DTYPES = ("bf16", "fp8", "f32")
NO_GPU = 3
TENSORRT_LLM = (
    "trtllm-bench --model <checkpoint> throughput --dataset <prompts of the same lengths> --max_batch_size <batch>"
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    device = torch.device("cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu")
    is_gpu = device.type == "cuda"
    if not is_gpu:
        torch.set_num_threads(1)

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    peaks = measure_peaks(device, options.dtypes)
    name = torch.cuda.get_device_name(device) if is_gpu else f"CPU, one thread of {machine()['processor']}"
    tokens, batches = ((128, 256, 512), (1, 8, 32)) if options.size == "full" else ((32, 64, 128), (1, 4, 8))
    cases = {name: group for name, group in engine.questions(tokens, batches).items() if options.only in name}
    shapes = {n: s for n, s in SIZES[options.size].items() if not options.shapes or n in options.shapes}
    found: dict[str, list[Any]] = {}
    behind: dict[str, list[Any]] = {}
    for shape_name, shape in shapes.items():
        for dtype in options.dtypes:

            def tell(words: str, prefix: str = f"{shape_name} {dtype}") -> None:
                say(f"{prefix}: {words}")

            measured = engine.measure(shape, dtype, device, peaks, cases, options.seconds, tell, options.least_calls)
            found.setdefault(shape_name, []).append(measured)
            if is_gpu:
                torch.cuda.empty_cache()
            if options.gateway:
                with tempfile.TemporaryDirectory(prefix="interlock-gpu-") as scratch:
                    served = gateway.measure(
                        Path(scratch) / "run", shape, dtype, device, options.front, options.gateway_seconds, tell
                    )
                behind.setdefault(shape_name, []).append(served)
    return {
        "what": "one-token decisions, random weights: tokens on the host in, label scores on the host out",
        "device": {"name": name, "is_gpu": is_gpu},
        "peaks": asdict(peaks),
        "floor": "max(operations / peak, bytes / bandwidth); peaks measured at the start, see perf/gpu/roofline.py",
        "kept_share": engine.KEPT,
        "machine": machine(),
        "versions": versions() | {"torch": torch.__version__},
        "commit": commit(),
        "shapes": found,
        "gateway": behind,
        "not_measured": {"TensorRT-LLM": f"on a machine that has it: {TENSORRT_LLM}"},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and record; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--shapes", nargs="*", default=[], help="some of the size's models, all unless told")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp8"])
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case in the engine")
    parser.add_argument(
        "--least-calls", type=int, default=engine.LEAST_CALLS, help="of each case, however long they take"
    )
    parser.add_argument("--gateway-seconds", type=float, default=8.0, help="for each load through the gateway")
    parser.add_argument("--no-gateway", dest="gateway", action="store_false", help="measure the engine only")
    parser.add_argument("--front", choices=("envoy", "grpcio"), default="envoy")
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu", help="folder of results")
    parser.add_argument("--only", default="", help="questions whose name has this in it, such as LoRA")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.shapes) - set(SIZES[options.size]))
    if unknown:
        parser.error(f"--shapes has {unknown[0]!r}, expected some of {', '.join(SIZES[options.size])}")
    if options.size == "full" and not torch.cuda.is_available():
        print("there is no CUDA device here; --size tiny runs on a CPU", file=sys.stderr)
        return NO_GPU
    result = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", result["device"]["name"].lower()).strip("-")
    path = options.out / f"{datetime.now():%Y-%m-%d}-{result['commit']}-{slug}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, path.with_suffix(".svg"))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
