"""Models as OpenVINO IR: conversion, and quantisation to eight bits.

Every graph reads ``input_ids`` and ``attention_mask`` of any shape [rows, tokens], padded at the end, and gives
``logits``, shape [rows, labels].
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
from torch import Tensor, nn

INPUTS = ("input_ids", "attention_mask")
SAMPLE = 200  # texts whose activations set the ranges of eight-bit numbers


@dataclass(frozen=True, slots=True)
class Graph:
    """An IR's two files."""

    xml: bytes
    weights: bytes


class LabelRows(nn.Module):
    """A decoder that ends in the rows of its output head that belong to the labels."""

    def __init__(self, model: Any, labels: Sequence[int]) -> None:
        super().__init__()
        self.body = model.base_model
        head = model.get_output_embeddings()
        at = torch.tensor(list(labels))
        self.rows = nn.Parameter(head.weight[at].clone(), requires_grad=False)
        self.bias = None if head.bias is None else nn.Parameter(head.bias[at].clone(), requires_grad=False)
        self.cap = getattr(model.config, "final_logit_softcapping", None)
        kinds = getattr(model.config, "layer_types", None) or ()
        self.window = model.config.sliding_window if "sliding_attention" in kinds else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return label logits at the last real token, shape [rows, labels]."""
        at = torch.arange(input_ids.shape[1])
        own = torch.eye(input_ids.shape[1], dtype=torch.bool)  # padding looks at itself, not at nothing
        seen = (at[None, :] <= at[:, None])[None, None] & attention_mask[:, None, None, :].bool() | own
        mask: Any = seen
        if self.window is not None:
            near = at[:, None] - at[None, :] < self.window
            mask = {"full_attention": seen, "sliding_attention": seen & near}
        states = self.body(
            input_ids=input_ids, attention_mask=mask, position_ids=at[None], use_cache=False
        ).last_hidden_state
        last = states[torch.arange(states.shape[0]), attention_mask.sum(1) - 1]
        logits = nn.functional.linear(last, self.rows, self.bias)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def to_ir(model: nn.Module, ids: Tensor, mask: Tensor) -> Graph:
    """Convert a module with inputs ``input_ids`` and ``attention_mask``; weights are kept in half precision."""
    dynamic = openvino.PartialShape([-1, -1])
    with torch.no_grad():
        converted = openvino.convert_model(
            model,
            example_input=dict(zip(INPUTS, (ids, mask), strict=True)),
            input=[(name, dynamic, openvino.Type.i64) for name in INPUTS],
        )
    for port, name in zip(converted.inputs, INPUTS, strict=True):
        port.set_names({name})
        port.get_node().set_friendly_name(name)
    converted.output(0).set_names({"logits"})
    return _saved(converted, compress=True)


def quantise(graph: Graph, rows: Sequence[Sequence[int]]) -> Graph:
    """Quantise weights and activations to eight bits, their ranges taken from token rows (post-training, NNCF)."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(graph.xml, graph.weights)
    batches = []
    for row in rows[:SAMPLE]:
        ids = np.asarray([row], dtype=np.int64)
        batches.append(dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True)))
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
