"""The same engine behind a gateway: callers over gRPC, and the highest load that is answered in time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from perf.deployment import TASK, Deployment, split
from perf.driving import drive
from perf.gpu.shapes import build
from perf.request import WORDS
from protos.contract.base import BaseStore

LIMIT_MS = 10.0
SHARES = (0.2, 0.4, 0.6, 0.8)  # of the most it can answer
FIXED = "is this page fit for an advertisement ? page : "


def measure(
    folder: Path,
    shape: Mapping[str, Any],
    dtype: str,
    device: torch.device,
    front: str,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write a base of this shape, serve it, and find what load it holds."""
    folder.mkdir(parents=True)
    say("writing the base")
    digest = _base(folder, shape, device, dtype)
    options = ("--bases", str(folder / "bases"), "--token-budget", "1024")
    with Deployment(folder / "deployment", front, worker_options=options) as deployment:
        task = replace(TASK, template=FIXED + "{text} Answer:", max_tokens=512, deadline_us=10_000_000)
        verbalizers = {label: " " + label for label in task.labels}
        bundle = deployment.store.add(
            task=task,
            engine={"backend": "transformers", "dtype": dtype, "device": device.type, "verbalizers": verbalizers},
            contents={},
            base={"name": "random", "digest": digest},
            lineage={"author": "trainer"},
        ).digest
        say("loading it")
        deployment.control.publish(split(bundle))
        deployment.check()
        say("the most it answers")
        most = drive(deployment.address, streams=16, seconds=seconds)
        alone = drive(deployment.address, streams=1, seconds=seconds)
        steps = []
        for share in SHARES:
            rate = round(share * most.answered_rps, 2)
            if rate < 1:
                continue
            say(f"{rate:g} calls/s")
            found = drive(deployment.address, rate=rate, seconds=seconds)
            steps.append(
                {
                    "rate": rate,
                    "p50_ms": found.p50_ms,
                    "p99_ms": found.p99_ms,
                    "fallbacks": found.fallbacks,
                    "errors": sum(found.errors.values()),
                }
            )
    held = [s["rate"] for s in steps if s["p99_ms"] < LIMIT_MS and not s["errors"] and not s["fallbacks"]]
    return {
        "dtype": dtype,
        "prompt_tokens": _tokens(),
        "one_at_a_time_ms": {"p50": alone.p50_ms, "p99": alone.p99_ms},
        "most_calls_per_s": most.answered_rps,
        "loads": steps,
        "limit_ms": LIMIT_MS,
        "highest_load_within_limit": max(held, default=None),
    }


def _base(folder: Path, shape: Mapping[str, Any], device: torch.device, dtype: str) -> str:
    model = build(shape, device, torch.float32 if dtype == "f32" else torch.bfloat16)
    raw = folder / "model"
    raw.mkdir()
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights are written once
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous().cpu()
    save_file(kept, raw / "model.safetensors", {"format": "pt"})
    (raw / "config.json").write_text(json.dumps(model.config.to_dict()))
    (raw / "tokenizer.json").write_text(_tokenizer().to_str())
    return BaseStore(folder / "bases").add("random", raw)


def _tokenizer() -> Tokenizer:
    words = dict.fromkeys(["[UNK]", *TASK.labels, "Answer", *_words(FIXED + WORDS)])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _words(text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text + ":")]


def _tokens() -> int:
    """Return how many tokens the benchmark's request is."""
    from perf.request import request_bytes
    from protos import oip_pb2

    raw = oip_pb2.ModelInferRequest.FromString(request_bytes()).raw_input_contents[0][4:].decode()
    return len(_tokenizer().encode(FIXED + raw + " Answer:").ids)
