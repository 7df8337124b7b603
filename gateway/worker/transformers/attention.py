"""Attention over a cached prefix and a batch laid out in any way, plugged into the library's models.

The models come from transformers; only the attention between query, key and value is ours, through the
interface the library has for it. So a prefix needs no cache object of the library's, and a packed
batch no mask of its: who may attend to whom is told by three numbers a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "interlock"


@dataclass(frozen=True, slots=True)
class KeyValues:
    """What attention keeps of tokens it has seen: one key and value a layer, shape [rows, heads, tokens, width]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """How many tokens are held."""
        return int(self.keys[0].shape[2])

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


def joined(parts: Sequence[KeyValues]) -> KeyValues:
    """Put the tokens of several, each of one row, behind one another."""
    if len(parts) == 1:
        return parts[0]
    layers = range(len(parts[0].keys))
    return KeyValues(
        tuple(torch.cat([part.keys[i] for part in parts], 2) for i in layers),
        tuple(torch.cat([part.values[i] for part in parts], 2) for i in layers),
    )


@dataclass(slots=True)
class Visibility:
    """Who sees whom in one forward pass.

    A query sees a key when the key's owner is the query's own segment or its prefix and, in a decoder, the
    key does not come later. All are int tensors; ``rows`` is the batch dimension of the forward pass, 1 when packed.

    Attributes:
        position: Place in the prompt of each query, shape [rows, queries].
        segment: Which prompt each query belongs to, shape [rows, queries].
        prefix: Which prefix each query continues, shape [rows, queries].
        key_position: Place in its prompt of each cached key, shape [1, cached].
        key_owner: Which prefix each cached key is of, shape [1, cached].
        cached: Their keys and values, of one row; None when nothing is cached.
        keep: Collects every layer's new keys and values, when the caller wants them.
    """

    position: Tensor
    segment: Tensor
    prefix: Tensor
    key_position: Tensor
    key_owner: Tensor
    is_causal: bool = True
    cached: KeyValues | None = None
    keep: list[tuple[Tensor, Tensor]] | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict, init=False)

    def mask(self, window: int | None) -> Tensor:
        """Return who may attend to whom, shape [rows, 1, queries, keys]; layers share it."""
        if window not in self._masks:
            rows = self.position.shape[0]
            positions = torch.cat([self.key_position.expand(rows, -1), self.position], 1)[:, None, :]
            owners = torch.cat([self.key_owner.expand(rows, -1), self.segment], 1)[:, None, :]
            seen = (owners == self.segment[..., None]) | (owners == self.prefix[..., None])
            if self.is_causal:
                seen &= positions <= self.position[..., None]
            if window is not None:
                seen &= self.position[..., None] - positions < window
            self._masks[window] = seen[:, None]
        return self._masks[window]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    interlock: Visibility,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend, all shapes [rows, heads, tokens, width]; returns [rows, tokens, heads, width]."""
    if interlock.keep is not None:
        interlock.keep.append((key, value))
    if interlock.cached is not None:
        layer, rows = module.layer_idx, key.shape[0]
        key = torch.cat([interlock.cached.keys[layer].expand(rows, -1, -1, -1), key], 2)
        value = torch.cat([interlock.cached.values[layer].expand(rows, -1, -1, -1), value], 2)
    mask = interlock.mask(sliding_window)
    shared = query.shape[1] // key.shape[1]
    if softcap is not None:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1, dtype=torch.float32)
        found = weights.to(query.dtype) @ value
    else:
        if key.is_cuda and shared > 1:  # with a mask, kernels there want a key and value for every query's head
            key, value, shared = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1), 1
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=shared > 1
        )
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # Visibility makes them
