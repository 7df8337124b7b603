"""The least time a pass could take on a device: its operations at the best rate, or its bytes at the best bandwidth.

    floor = max(operations / peak operations per second, bytes / peak bytes per second)

operations: 2 x weights x new tokens, the linear modules of every layer; 4 x heads x width for every pair of a new token
and one it may see, in every layer; 2 x hidden x rows of the output head used, for every prompt.
bytes: every weight once, the head's rows used, adapters used, and the kept prefix's keys and values once a batch.

Peaks are measured here, at the start of a run, by one large copy and one large product a precision. They are what the
device's libraries reach, not a data sheet's. (Williams, Waterman, Patterson 2009.)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gateway.worker.transformers.adapters import LoraLinear
from gateway.worker.transformers.resident import Resident


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best rates of a device; ``flops`` by precision, those it cannot compute left out."""

    bytes_per_s: float
    flops: dict[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass has to do."""

    flops: float
    bytes: float

    def floor_ms(self, peaks: Peaks, dtype: str) -> float:
        """Return the least time, in ms."""
        return 1000 * max(self.flops / peaks.flops[dtype], self.bytes / peaks.bytes_per_s)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peaks(device: torch.device, dtypes: list[str]) -> Peaks:
    """Measure one device; a few seconds."""
    is_gpu = device.type == "cuda"
    elements = 1 << (29 if is_gpu else 23)
    source = torch.empty(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source), device)
    side = 8192 if is_gpu else 768
    flops = {}
    for dtype in dtypes:
        product = _product(side, device, dtype)
        flops[dtype] = 2.0 * side**3 / _best(product, device)
    return Peaks(2.0 * elements * source.element_size() / seconds, flops)


def work_of(resident: Resident, prompts: int, new: int, cached: int, head_rows: int, adapters: int) -> Work:
    """Count one pass over equal prompts.

    Args:
        new: Tokens of each prompt that are computed.
        cached: Tokens of the kept prefix each continues.
        head_rows: Rows of the output head that are multiplied.
        adapters: Adapters in the batch.
    """
    config = resident.config
    linear = [m for m in resident.model.modules() if isinstance(m, LoraLinear)]
    weights = sum(m.inner.in_features * m.inner.out_features for m in linear)
    weight_bytes = sum(m.inner.weight.numel() * m.inner.weight.element_size() for m in linear)
    width = config.num_attention_heads * config.head_dim
    pairs = prompts * (new * cached + new * (new + 1) / 2)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    itemsize = torch.empty(0, dtype=resident.dtype).element_size()
    share = adapters / len(resident.bank.ranges) if resident.bank.ranges else 0.0
    lora = sum(t.numel() for pair in resident.bank.weights.values() for t in pair) * share
    flops = 2.0 * weights * prompts * new + 4.0 * width * pairs * layers + 2.0 * hidden * head_rows * prompts
    flops += 2.0 * lora / max(1, adapters) * prompts * new
    kept = 2.0 * config.num_key_value_heads * config.head_dim * cached * layers * max(1, adapters)
    return Work(flops, weight_bytes + itemsize * (hidden * head_rows + lora + kept))


def _best(run: Callable[[], Any], device: torch.device, rounds: int = 8) -> float:
    run()
    found = []
    for _ in range(rounds):
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _product(side: int, device: torch.device, dtype: str) -> Callable[[], Any]:
    if dtype == "fp8":
        a, b = (torch.ones(side, side, device=device).to(torch.float8_e4m3fn) for _ in range(2))
        ones = torch.ones(side, 1, device=device)
        return lambda: torch._scaled_mm(a, b.t(), scale_a=ones, scale_b=ones.t(), out_dtype=torch.bfloat16)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    x, y = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return lambda: x @ y
