"""What a kept prefix saves a decoder on a CPU: ``python -m perf.prefix``.

One OpenVINO bundle of a decoder with random weights (of ``perf.gpu``'s shapes), opened twice by the worker's own code:
with the keys and values of what its template begins with kept, and without. Both answer the same texts in turns, one at
a time on one core, so that the ratio holds on a machine that is busy with others. Times are real, answers are not;
both ways must give the same ones.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from controlplane.training.ir import LabelRows, to_ir
from gateway.worker.backend import Host
from gateway.worker.engine import Engine, open_engine
from perf.gpu.shapes import SIZES
from perf.openloop import percentile
from perf.processes import load_core
from perf.results import FOLDER, commit, machine, versions
from protos.contract.bundle import BundleStore
from protos.contract.prompt import Prompt
from tests.gateway.worker.tiny_models import DECODER_TASK, TEXTS, tokenizer

BEGINNING = "Is this page fit for an advertisement? "  # over and over: instructions are as long as people write them
WARM_UP = 5


def opened(store: BundleStore, shape: Mapping[str, Any], beginning: int) -> dict[str, Engine]:
    """Make the bundle and open it both ways; ``beginning`` is how often its template says what it is about."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[shape["model_type"]].from_dict(dict(shape))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    task = replace(DECODER_TASK, template=BEGINNING * beginning + DECODER_TASK.template, max_tokens=1024)
    prompt = Prompt(tokenizer(), task, "cut", task.max_tokens)
    tokens = list(prompt.label_tokens({}))
    ids = torch.tensor([prompt.encode(task.template.format(text=TEXTS[0]))[0]] * 2)
    graph = to_ir(LabelRows(model, tokens).eval(), ids, torch.ones_like(ids))
    files = {
        "model.xml": graph.xml,
        "model.bin": graph.weights,
        "tokenizer.json": tokenizer().to_str().encode(),
    }
    engine = {"backend": "openvino", "kind": "decoder", "precision": "f32", "label_tokens": tokens}
    made = {
        name: store.add(task=task, engine=engine | {"prefix_cache": kept}, contents=files, base={}, lineage={})
        for name, kept in (("whole", False), ("kept", True))
    }
    return {name: open_engine(store.load(manifest.digest), Host(threads=1)) for name, manifest in made.items()}


def measure(engines: dict[str, Engine], calls: int) -> dict[str, Any]:
    """Time both ways in turns."""
    template = engines["kept"].task.template
    texts = [template.format(text=text) for text in TEXTS]
    wall: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    apart = 0.0
    for turn in range(WARM_UP + calls):
        text, answers = texts[turn % len(texts)], []
        for name, engine in engines.items():
            began, busy = time.perf_counter(), time.process_time()
            answers.append(engine.probabilities([engine.backend.prepare(text)])[0])
            if turn >= WARM_UP:
                cpu[name].append(1000 * (time.process_time() - busy))
                wall[name].append(1000 * (time.perf_counter() - began))
        apart = max(apart, float(np.abs(answers[0] - answers[1]).max()))
    lengths = {name: [e.backend.prepare(text).tokens for text in texts] for name, e in engines.items()}
    return {
        "tokens_computed": {name: float(np.mean(own)) for name, own in lengths.items()},
        "calls": calls,
        "wall_ms": {name: {f"p{q}": percentile(own, q) for q in (10, 50, 99)} for name, own in wall.items()},
        "cpu_ms": {name: {f"p{q}": percentile(own, q) for q in (10, 50, 99)} for name, own in cpu.items()},
        "times_faster": round(float(np.median(np.array(cpu["whole"]) / np.array(cpu["kept"]))), 2),
        "most_apart": apart,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.prefix", description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=("small", "tiny"), default="small", help="as of perf.gpu")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--beginning", type=int, default=16, help="sentences that the template begins with")
    parser.add_argument("--out", type=Path, default=FOLDER / "prefix", help="folder of results")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {load_core()})
    torch.set_num_threads(1)
    made_by = commit()
    name, shape = next(iter(SIZES[options.size].items()))
    with tempfile.TemporaryDirectory(prefix="interlock-prefix-") as scratch:
        found = measure(opened(BundleStore(Path(scratch)), shape, options.beginning), options.calls)
    chosen = f"--size {options.size} --calls {options.calls} --beginning {options.beginning}"
    about = {
        "what": f"{name}, random weights, OpenVINO f32, one text at a time on one core",
        "command": f"python -m perf.prefix {chosen}",
        **found,
        "machine": machine(),
        "versions": versions() | {"torch": torch.__version__},
        "commit": made_by,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{datetime.now():%Y-%m-%d}-{made_by}.json"
    path.write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
