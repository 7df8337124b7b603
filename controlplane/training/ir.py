"""Models as OpenVINO IR: conversion, and quantisation to eight bits.

Every graph reads ``input_ids`` and ``attention_mask`` of any shape [rows, tokens], padded at the end, and gives
``logits``, shape [rows, labels]. A decoder's also reads ``past``, the keys and values of tokens that every row begins
with, shape [2 x layers, 1, heads, tokens of the past, width], and gives ``present``, the same of past and own tokens:
what a template begins with is computed once. One that writes text gives ``next`` besides, every token's logit at the
last place, shape [rows, vocabulary].
"""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

INPUTS = ("input_ids", "attention_mask")
PAST, PRESENT, NEXT = "past", "present", "next"
SAMPLE = 200  # texts whose activations set the ranges of eight-bit numbers


@dataclass(frozen=True, slots=True)
class Graph:
    """An IR's two files."""

    xml: bytes
    weights: bytes


class LabelRows(nn.Module):
    """A decoder that ends in the rows of its output head that belong to the labels."""

    def __init__(self, model: Any, labels: Sequence[int], *, writes: bool = False) -> None:
        super().__init__()
        self.head = model.get_output_embeddings() if writes else None
        self.body = model.base_model
        head = model.get_output_embeddings()
        at = torch.tensor(list(labels))
        self.rows = nn.Parameter(head.weight[at].clone(), requires_grad=False)
        self.bias = None if head.bias is None else nn.Parameter(head.bias[at].clone(), requires_grad=False)
        self.cap = getattr(model.config, "final_logit_softcapping", None)
        kinds = getattr(model.config, "layer_types", None) or ()
        self.window = model.config.sliding_window if "sliding_attention" in kinds else None
        heads = model.config.num_attention_heads
        width = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
        kept = getattr(model.config, "num_key_value_heads", None) or heads
        self.past_shape = (2 * model.config.num_hidden_layers, 1, kept, -1, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """Return label logits at the last real token, shape [rows, labels], and every layer's keys and values.

        Where it writes, also every token's logit there, shape [rows, vocabulary].
        """
        rows, kept = input_ids.shape[0], past.shape[3]
        at = torch.arange(kept + input_ids.shape[1])
        mine = at[kept:]
        there = torch.cat([torch.ones(rows, kept, dtype=attention_mask.dtype), attention_mask], 1)
        own = at[None, :] == mine[:, None]  # padding looks at itself, not at nothing
        seen = (at[None, :] <= mine[:, None])[None, None] & there[:, None, None, :].bool() | own
        mask: Any = seen
        if self.window is not None:
            near = mine[:, None] - at[None, :] < self.window
            mask = {"full_attention": seen, "sliding_attention": seen & near}
        cache: Any = DynamicCache()
        for i in range(0, self.past_shape[0], 2):
            layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]  # a sliding layer keeps all, too: the mask says what it sees
            layer.keys, layer.values = (past[i + side].expand(rows, -1, -1, -1) for side in (0, 1))
            layer.dtype, layer.device, layer.is_initialized = past.dtype, past.device, True
            cache.layers.append(layer)
        states = self.body(
            input_ids=input_ids, attention_mask=mask, position_ids=mine[None], cache=cache, use_cache=True
        ).last_hidden_state
        last = states[torch.arange(states.shape[0]), attention_mask.sum(1) - 1]
        logits = self._capped(nn.functional.linear(last, self.rows, self.bias))
        present = torch.stack([side for layer in cache.layers for side in (layer.keys, layer.values)])
        return (logits, present) if self.head is None else (logits, present, self._capped(self.head(last)))

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def to_ir(model: nn.Module, ids: Tensor, mask: Tensor) -> Graph:
    """Convert a module with inputs ``input_ids`` and ``attention_mask``; weights are kept in half precision."""
    dynamic = openvino.PartialShape([-1, -1])
    example = dict(zip(INPUTS, (ids, mask), strict=True))
    inputs = [(name, dynamic, openvino.Type.i64) for name in INPUTS]
    if isinstance(model, LabelRows):
        layers, one, heads, _, width = model.past_shape
        example[PAST] = torch.zeros(layers, one, heads, 3, width)  # of any length: tracing must not take it for fixed
        inputs.append((PAST, openvino.PartialShape(list(model.past_shape)), openvino.Type.f32))
    with torch.no_grad():
        # Tracing would run the module twice more to compare: whoever asks compares what the graph answers.
        traced = TorchScriptPythonDecoder(model, example_input=example, trace_kwargs={"check_trace": False})
        converted = openvino.convert_model(traced, example_input=example, input=inputs)
    for port, (name, _, _) in zip(converted.inputs, inputs, strict=True):
        port.set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(converted.outputs, ("logits", PRESENT, NEXT), strict=False):
        port.set_names({name})
    return _saved(converted, compress=True)


def quantise(graph: Graph, rows: Sequence[Sequence[int]]) -> Graph:
    """Quantise weights and activations to eight bits, their ranges taken from token rows (post-training, NNCF)."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(graph.xml, graph.weights)
    batches = []
    past = {}
    for port in model.inputs:
        if port.any_name == PAST:
            shape = [0 if size.is_dynamic else size.get_length() for size in port.partial_shape]
            past[PAST] = np.zeros(shape, dtype=np.float32)
    for row in rows[:SAMPLE]:
        ids = np.asarray([row], dtype=np.int64)
        batches.append(dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True)) | past)
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars would end up in the command's answer
        quantised = nncf.quantize(
            model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )
    return _saved(quantised, compress=False)


def _saved(model: Any, *, compress: bool) -> Graph:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=compress)
        return Graph(path.read_bytes(), path.with_suffix(".bin").read_bytes())
