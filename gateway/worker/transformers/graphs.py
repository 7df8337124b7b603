"""CUDA graphs of forward passes: a shape seen before is replayed without launching its kernels one by one.

A graph reads and writes the addresses it was captured with. Inputs are copied into its own; weights, adapters
and prefixes keep theirs, and what a graph holds on to is kept alive with it.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_GRAPHS = 64
WARM_UPS = 2  # libraries choose their kernels and allocate their workspaces in the first passes

Compute = Callable[[dict[str, Tensor]], Tensor]


@dataclass(slots=True)
class _Captured:
    graph: Any
    inputs: dict[str, Tensor]
    output: Tensor
    holds: tuple[Any, ...]


class Graphs:
    """The graphs of one model, the least recently used given up when there are too many."""

    def __init__(self, most: int = MAX_GRAPHS) -> None:
        self._most = most
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, key: Hashable, holds: tuple[Any, ...], inputs: dict[str, Tensor], compute: Compute) -> Tensor:
        """Return ``compute(inputs)``; equal keys promise equal shapes and equal work.

        ``holds`` are the objects that the work reads beside its inputs and that ``key`` names by identity.
        """
        found = self._captured.get(key)
        if found is None:
            found = self._captured[key] = self._capture(inputs, compute, holds)
            if len(self._captured) > self._most:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        for name, value in inputs.items():
            found.inputs[name].copy_(value, non_blocking=True)
        found.graph.replay()
        return found.output.clone()

    def clear(self) -> None:
        """Give up every graph, and with it the memory that only graphs hold."""
        self._captured.clear()

    def _capture(self, inputs: dict[str, Tensor], compute: Compute, holds: tuple[Any, ...]) -> _Captured:
        own = {name: value.clone() for name, value in inputs.items()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                compute(own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, pool=self._pool, stream=side):
            output = compute(own)
        return _Captured(graph, own, output, holds)
