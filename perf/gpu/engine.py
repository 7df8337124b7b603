"""One decision's time in the engine itself: tokens in, label scores out on the host.

Each question varies one thing, and its cases run in turns, round after round, so that a machine that slows down slows
all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from gateway.worker.transformers.adapters import Adapter, LoraLinear
from gateway.worker.transformers.graphs import Graphs
from gateway.worker.transformers.loading import DECODER
from gateway.worker.transformers.resident import Resident, Row
from perf.gpu.roofline import Peaks, synchronise, work_of
from perf.gpu.shapes import build
from perf.openloop import percentile

LABELS = (11, 12, 13)
RANK = 16
ADAPTERS = 4
KEPT = 0.75  # of a prompt, where a prefix is kept
LEAST_CALLS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One way to decide.

    Attributes:
        tokens: Of each prompt, a kept prefix included.
        batch: Prompts decided together.
        is_cached: Whether the first three quarters of the prompt are kept from before.
        has_graphs: Whether passes are replayed as CUDA graphs.
        head: ``rows`` of the labels, or ``full``.
        adapters: Adapters in the batch, prompts dealt round; 0 is the base, or one merged into it.
    """

    tokens: int
    batch: int
    is_cached: bool = False
    has_graphs: bool = True
    head: str = "rows"
    adapters: int = 0


def questions(tokens: Sequence[int], batches: Sequence[int]) -> dict[str, list[Case]]:
    """Return the cases of each question, the first of each the one to compare with."""
    middle, large = tokens[len(tokens) // 2], batches[-1]
    plain = Case(middle, batches[0])
    found = {
        f"{n} tokens, batch {b}": [Case(n, b, cached, graphs) for cached in (False, True) for graphs in (True, False)]
        for n in tokens
        for b in batches
    }
    for batch in dict.fromkeys((batches[0], large)):
        base = replace(plain, batch=batch)
        found[f"head, batch {batch}"] = [base, replace(base, head="full")]
        found[f"LoRA, batch {batch}"] = [replace(base, adapters=n) for n in sorted({0, 1, min(ADAPTERS, batch)})]
    mixed = replace(plain, batch=batches[-1] if len(batches) < 2 else batches[1], adapters=1)
    found["primary and canary in one batch"] = [mixed, replace(mixed, adapters=2)]
    return found


def measure(
    shape: Mapping[str, Any],
    dtype: str,
    device: torch.device,
    peaks: Peaks,
    cases: Mapping[str, list[Case]],
    seconds: float,
    say: Callable[[str], None],
    least_calls: int = LEAST_CALLS,
) -> dict[str, Any]:
    """Measure one model in one precision; ``seconds`` is for each case."""
    precision = torch.float32 if dtype == "f32" else torch.bfloat16
    resident = Resident(build(shape, device, precision), DECODER, "random")
    resident.check()
    if dtype == "fp8":
        resident.round_weights()
    before = resident.bytes
    shares = []
    for number in range(ADAPTERS):
        held = resident.bank.bytes
        resident.add_adapter(f"adapter {number}", _adapter(resident, number))
        shares.append((resident.bank.bytes - held) / before)
    prompts = _prompts(shape, max(case.tokens for group in cases.values() for case in group))
    found: dict[str, Any] = {}
    graphs = resident.graphs
    for name, group in cases.items():
        say(name)
        if graphs is None:
            group = [case for case in group if case.has_graphs] or group  # a CPU has none: once is enough
        found[name] = _interleaved(resident, group, prompts, (seconds, least_calls), graphs, peaks, dtype)
    return {
        "dtype": dtype,
        "base_bytes": before,
        "adapter_rank": RANK,
        "adapter_share_of_base": {"first": round(shares[0], 5), "second": round(shares[1], 5)},
        "questions": found,
    }


def _interleaved(
    resident: Resident,
    group: Sequence[Case],
    prompts: Sequence[list[int]],
    least: tuple[float, int],
    graphs: Graphs | None,
    peaks: Peaks,
    dtype: str,
) -> list[dict[str, Any]]:
    calls = [_decision(resident, case, prompts) for case in group]
    taken: list[list[float]] = [[] for _ in group]
    for case, call in zip(group, calls, strict=True):
        resident.graphs = graphs if case.has_graphs else None
        for _ in range(3):
            call()
    ends = time.monotonic() + least[0] * len(group)
    while time.monotonic() < ends or len(taken[0]) < least[1]:
        for case, call, own in zip(group, calls, taken, strict=True):
            resident.graphs = graphs if case.has_graphs else None
            synchronise(resident.device)
            began = time.perf_counter()
            call()
            own.append(1000 * (time.perf_counter() - began))
    resident.graphs = graphs
    rows = []
    for case, own in zip(group, taken, strict=True):
        cached = int(case.tokens * KEPT) if case.is_cached else 0
        head_rows = len(LABELS) if case.head == "rows" else int(resident.config.vocab_size)
        work = work_of(resident, case.batch, case.tokens - cached, cached, head_rows, case.adapters)
        floor, middle = work.floor_ms(peaks, dtype), float(np.median(own))
        against = np.median(np.array(own) / np.array(taken[0]))
        rows.append(
            asdict(case)
            | {
                "has_graphs": case.has_graphs and graphs is not None,
                "calls": len(own),
                "p50_ms": percentile(own, 50),
                "p99_ms": percentile(own, 99),
                "floor_ms": round(floor, 4),
                "times_floor": round(middle / floor, 2),
                "times_first": round(float(against), 3),
                "prompts_per_s": round(1000 * case.batch / middle, 1),
            }
        )
    return rows


def _decision(resident: Resident, case: Case, prompts: Sequence[list[int]]) -> Callable[[], Any]:
    kept = int(case.tokens * KEPT) if case.is_cached else 0
    prefix = tuple(prompts[0][:kept])
    rows = []
    for i in range(case.batch):
        adapter = f"adapter {i % case.adapters}" if case.adapters else ""
        ids = prompts[i % len(prompts)][kept : case.tokens]
        rows.append(Row(ids, prefix, adapter))
        resident.keep_prefix(adapter, prefix)

    def decide() -> Any:
        states = resident.states(rows)
        score = resident.label_logits if case.head == "rows" else resident.label_logprobs
        with torch.inference_mode():
            return score(states, LABELS).cpu()

    return decide


def _prompts(shape: Mapping[str, Any], tokens: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return random.integers(20, shape["vocab_size"], (32, tokens)).tolist()  # type: ignore[no-any-return]


def _adapter(resident: Resident, seed: int) -> Adapter:
    """Return random weights of rank 16 for every linear module."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in resident.model.named_modules():
        if isinstance(module, LoraLinear):
            sizes = module.inner.in_features, module.inner.out_features
            a, b = (0.01 * torch.randn(RANK, size, generator=generator) for size in sizes)
            weights[name] = (a, b)
    return Adapter(RANK, weights)
