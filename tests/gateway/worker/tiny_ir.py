"""An encoder in OpenVINO IR, small enough to build where a test runs."""

import json
from pathlib import Path

import numpy as np
import openvino as ov

WORDS = ("[PAD]", "[UNK]", "good", "bad", "page", "news", "broken")
WIDTH = 4


_random = np.random.default_rng(7)
TABLE = _random.normal(size=(len(WORDS), WIDTH)).astype(np.float32)
TABLE[WORDS.index("broken")] = np.nan
HEAD = _random.normal(size=(WIDTH, 2)).astype(np.float32)


def tiny_ir(folder: Path, inputs: tuple[str, str] = ("input_ids", "attention_mask")) -> dict[str, bytes]:
    """Embed, average over the mask, and project to two labels."""
    op = ov.opset13
    ids, mask = (op.parameter([-1, -1], np.int64, name=name) for name in inputs)
    for node, name in zip((ids, mask), inputs, strict=True):
        node.output(0).set_names({name})
    table = op.constant(TABLE)
    weight = op.unsqueeze(op.convert(mask, "f32"), op.constant(np.int64(2)))
    kept = op.multiply(op.gather(table, ids, op.constant(np.int64(0))), weight)
    total = op.reduce_sum(kept, op.constant(np.array([1])), keep_dims=False)
    rows = op.reduce_sum(weight, op.constant(np.array([1])), keep_dims=False)
    head = op.constant(HEAD)
    logits = op.matmul(op.divide(total, rows), head, False, False)
    logits.output(0).set_names({"logits"})
    ov.save_model(ov.Model([logits], [ids, mask], "tiny"), folder / "m.xml", compress_to_fp16=False)
    return {"model.xml": (folder / "m.xml").read_bytes(), "model.bin": (folder / "m.bin").read_bytes()}


TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
).encode()


def logits(text: str) -> list[float]:
    """What the graph says of a text of its words, by hand."""
    rows = [TABLE[WORDS.index(word) if word in WORDS else 1] for word in text.split()]
    found: list[float] = (np.mean(rows, axis=0) @ HEAD).tolist()
    return found
