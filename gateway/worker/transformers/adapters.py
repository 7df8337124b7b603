"""LoRA adapters in PEFT's files, and many of them on one base in one batch.

The adapters resident on a base stand side by side in one matrix a module: A of shape [ranks, inputs], B of
shape [ranks, outputs], each adapter a range of ranks. A batch multiplies by the ranges it needs and blanks,
row by row, the ranks of other adapters, so any mixture is two plain matrix products a module, of shapes
that a CUDA graph can hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn

from gateway.worker.backend import BackendFailed
from gateway.worker.peft import CONFIG, WEIGHTS, check_config, check_targets
from gateway.worker.transformers.fp8 import Fp8Linear
from protos.contract.digest import JsonMalformed, parse_json_object

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter as read: A [rank, inputs] and B [rank, outputs] a module, B scaled by alpha over rank."""

    rank: int
    weights: Mapping[str, tuple[Tensor, Tensor]]


def read_adapter(contents: Mapping[str, bytes], base_name: str, base_digest: str, max_rank: int) -> Adapter | None:
    """Read a bundle's adapter; None when it has none.

    Raises:
        BackendFailed: Corrupt, for another base, over the rank limit, not finite, or of a kind not computed here.
    """
    if WEIGHTS not in contents and CONFIG not in contents:
        return None
    for name in (CONFIG, WEIGHTS):
        if name not in contents:
            raise BackendFailed(f"{name} is missing from the bundle")
    try:
        config = parse_json_object(contents[CONFIG])
        tensors = read_safetensors(contents[WEIGHTS])
    except JsonMalformed as error:
        raise BackendFailed(f"{CONFIG}: {error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise BackendFailed(f"{WEIGHTS}: {error}") from error
    rank, scale = check_config(config, (base_name, base_digest), max_rank)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise BackendFailed(f"{WEIGHTS} holds {name}, expected lora_A and lora_B of linear modules only")
        if not torch.isfinite(tensor).all():
            raise BackendFailed(f"{WEIGHTS}: {name} is not finite")
        halves.setdefault(found["module"], {})[found["side"]] = tensor.float()
    weights = {}
    for module, sides in halves.items():
        if set(sides) != {"A", "B"}:
            raise BackendFailed(f"{WEIGHTS} holds only lora_{min(sides)} of {module}, expected A and B")
        a, b = sides["A"], sides["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise BackendFailed(
                f"{WEIGHTS}: {module} has shapes {list(a.shape)} and {list(b.shape)}, expected rank r = {rank}"
            )
        weights[module] = (a, (b * scale).T.contiguous())
    if not weights:
        raise BackendFailed(f"{WEIGHTS} is empty")
    check_targets(config, weights)
    return Adapter(rank, weights)


@dataclass(frozen=True)
class Bank:
    """The adapters resident on a base. Never changed: a new one takes its place between two batches."""

    weights: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Ranks of all adapters together."""
        return sum(high - low for low, high in self.ranges.values())

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        return sum(t.numel() * t.element_size() for pair in self.weights.values() for t in pair)

    def with_adapter(self, name: str, adapter: Adapter, like: nn.Module) -> "Bank":
        """Return a bank that also holds an adapter; ``like`` gives each module's device, dtype and sizes.

        Raises:
            BackendFailed: It targets a module the base has not, or one of other sizes.
        """
        modules = {n: m for n, m in like.named_modules() if isinstance(m, LoraLinear)}
        for module, (a, b) in adapter.weights.items():
            if module not in modules:
                raise BackendFailed(f"the adapter targets {module}, which is no linear module of the base")
            inner = modules[module].inner
            if (a.shape[1], b.shape[1]) != (inner.in_features, inner.out_features):
                raise BackendFailed(
                    f"the adapter's {module} maps {a.shape[1]} to {b.shape[1]}, expected "
                    f"{inner.in_features} to {inner.out_features}: it was trained on another base"
                )
        weights = {}
        for module in {**self.weights, **adapter.weights}:
            inner = modules[module].inner
            options: dict[str, Any] = {"device": inner.weight.device, "dtype": modules[module].dtype}
            sides = []
            for side, width in enumerate((inner.in_features, inner.out_features)):
                old = (
                    self.weights[module][side] if module in self.weights else torch.zeros(self.ranks, width, **options)
                )
                new = adapter.weights[module][side] if module in adapter.weights else torch.zeros(adapter.rank, width)
                sides.append(torch.cat([old, new.to(**options)]))
            weights[module] = (sides[0], sides[1])
        low = self.ranks
        return Bank(weights, {**self.ranges, name: (low, low + adapter.rank)})

    def without(self, name: str) -> "Bank":
        """Return a bank that lacks an adapter."""
        low, high = self.ranges[name]
        kept = torch.cat([torch.arange(low), torch.arange(high, self.ranks)])
        ranges = {
            n: (a, b) if b <= low else (a - (high - low), b - (high - low))
            for n, (a, b) in self.ranges.items()
            if n != name
        }
        weights = {}
        for module, (a, b) in self.weights.items():
            at = kept.to(a.device)
            if a[at].any():  # a module that no adapter left targets costs nothing any more
                weights[module] = (a[at], b[at])
        return Bank(weights, ranges)


@dataclass(frozen=True, slots=True)
class Choice:
    """The adapters of one batch.

    Attributes:
        low, high: The ranks in use.
        other: True where a token's adapter is not the rank's, shape [rows, tokens or 1, high - low];
            None when one adapter answers for every token.
    """

    bank: Bank
    low: int
    high: int
    other: Tensor | None


class Switch:
    """What every ``LoraLinear`` of a base looks at. Set before a forward pass, by the thread that runs it."""

    def __init__(self) -> None:
        self.choice: Choice | None = None


class LoraLinear(nn.Module):
    """A linear module of the base and, beside it, what the batch's adapters add."""

    def __init__(self, inner: nn.Linear, name: str, switch: Switch, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner: nn.Linear | Fp8Linear = inner
        self.name, self.dtype = name, dtype
        self._switch = switch

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W + ((x A) blanked) B``."""
        y: Tensor = self.inner(x)
        choice = self._switch.choice
        pair = None if choice is None else choice.bank.weights.get(self.name)
        if choice is None or pair is None:
            return y
        low, high = choice.low, choice.high
        h = nn.functional.linear(x, pair[0][low:high])
        if choice.other is not None:
            h = h.masked_fill(choice.other, 0.0)  # not a product: what is blanked may be infinite
        return torch.addmm(y.flatten(0, -2), h.flatten(0, -2), pair[1][low:high]).view_as(y)


def equip(model: Any, switch: Switch, dtype: torch.dtype) -> None:
    """Let every linear module but the output head take adapters."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLinear(module, name, switch, dtype))


def merge(model: Any, adapter: Adapter) -> None:
    """Add an adapter to the base's own weights, in place, where they are.

    Raises:
        BackendFailed: It targets a module the base has not, or one of other sizes.
    """
    Bank().with_adapter("merged", adapter, model)  # the same checks
    modules = {n: m for n, m in model.named_modules() if isinstance(m, LoraLinear)}
    with torch.no_grad():
        for name, (a, b) in adapter.weights.items():
            weight = modules[name].inner.weight
            change = (a.T.to(weight.device) @ b.to(weight.device)).T
            weight.copy_((weight.float() + change).to(weight.dtype))
