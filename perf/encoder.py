"""OpenVINO against PyTorch on one core: ``python -m perf.encoder``.

The packaged MiniLM encoder with a linear head over texts of 32 tokens, one at a time: eager PyTorch in f32,
OpenVINO in single precision, in bf16 where the CPU has it, and in eight bits. All take turns, call after call, in one
process on one core, so that ratios hold even on a machine that is busy with other things. Random head, random tokens:
times are real, answers are not; what eight bits cost in accuracy is what ``interlock engine convert`` measures.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch import nn
from transformers import BertModel

from controlplane.training.ir import INPUTS, Graph, quantise, to_ir
from controlplane.training.lora import base_directory
from perf.openloop import percentile
from perf.processes import load_core
from perf.results import FOLDER, commit, machine, versions

TOKENS = 32
LABELS = 3
WARM_UP = 20


class Encoder(nn.Module):
    """MiniLM, mean over real tokens, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = BertModel.from_pretrained(str(base_directory()), add_pooling_layer=False, local_files_only=True)
        self.head = nn.Linear(self.body.config.hidden_size, LABELS)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits, shape [rows, labels]."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * mask).sum(1) / mask.sum(1).clamp(min=1.0))  # type: ignore[no-any-return]


def _openvino(graph: Graph, precision: str, given: dict[str, Any]) -> Callable[[], Any]:
    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(core.read_model(graph.xml, graph.weights), "CPU", options).create_infer_request()
    return lambda: request.infer(given, share_inputs=True)


def measure(calls: int) -> dict[str, Any]:
    """Time every way in turns."""
    os.sched_setaffinity(0, {load_core()})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = Encoder().eval()
    rows = [random.integers(1000, 20_000, n).tolist() for n in random.integers(8, 64, 64)]
    ids = torch.from_numpy(random.integers(1000, 20_000, (1, TOKENS)))
    mask = torch.ones_like(ids)
    graph = to_ir(model, ids.expand(2, -1), mask.expand(2, -1))
    small = quantise(graph, rows)
    given = dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True))

    def eager() -> Any:
        with torch.inference_mode():
            return model(ids, mask)

    ways: dict[str, Callable[[], Any]] = {
        "torch_eager_f32": eager,
        "openvino_f32": _openvino(graph, "f32", given),
        "openvino_int8": _openvino(small, "", given),
    }
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        ways["openvino_bf16"] = _openvino(graph, "bf16", given)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(WARM_UP + calls):
        for name, way in ways.items():
            began, busy = time.perf_counter(), time.thread_time()
            way()
            if turn >= WARM_UP:
                spent[name].append(1000 * (time.thread_time() - busy))
                taken[name].append(1000 * (time.perf_counter() - began))
    base = spent["torch_eager_f32"]
    return {
        "what": f"MiniLM encoder, one text of {TOKENS} tokens at a time, one core",
        "calls": calls,
        "wall_ms": {name: {f"p{q}": percentile(own, q) for q in (10, 50, 99)} for name, own in taken.items()},
        "cpu_ms": {name: {f"p{q}": percentile(own, q) for q in (10, 50, 99)} for name, own in spent.items()},
        "times_faster_than_torch": {
            name: round(float(np.median(np.array(base) / np.array(own))), 2) for name, own in spent.items()
        },
        "machine": machine(),
        "versions": versions() | {"torch": torch.__version__},
        "commit": commit(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.encoder", description=__doc__, allow_abbrev=False)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--out", type=Path, default=FOLDER / "encoder", help="folder of results")
    options = parser.parse_args(arguments)
    result = measure(options.calls)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{datetime.now():%Y-%m-%d}-{result['commit']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("wall_ms", "cpu_ms", "times_faster_than_torch")}, indent=2))
    print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
