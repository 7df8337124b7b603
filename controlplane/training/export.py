"""From trained weights to a bundle: merge the adapter, convert to OpenVINO, check that both agree, add."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save

from controlplane.packs.example import Example
from controlplane.training.calibration import fit_head
from controlplane.training.dataset import dataset_digest
from controlplane.training.lora import (
    BASE_NAME,
    BASE_SHA256,
    Classifier,
    base_directory,
    load_tokenizer,
    logits_of,
    to_batch,
)
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.head import HEAD, Head
from protos.contract.task import TaskSpec

COMPARED = 8  # texts
MAX_DIFFERENCE = 0.05  # of a probability: half precision stays far below it, a wrong conversion does not


class ExportFailed(Exception):
    """The exported engine does not answer as the trained model does."""


def export(
    model: Classifier,
    task: TaskSpec,
    dev: Sequence[Example],
    *,
    store: BundleStore,
    lineage: Mapping[str, Any],
) -> str:
    """Write a bundle and return its digest; ``model`` is merged in place.

    The head is fitted on ``dev``, and its first texts are compared through both engines.

    Raises:
        ExportFailed: A probability differs by more than ``MAX_DIFFERENCE``.
    """
    directory = base_directory()
    encoder: Any = model.encoder
    adapter = {name: value.detach().contiguous() for name, value in get_peft_model_state_dict(encoder).items()}
    adapter_config = _plain(encoder.peft_config["default"].to_dict())
    adapter_config["base_model_name_or_path"] = BASE_NAME
    head = {name: value.detach().contiguous() for name, value in model.head.state_dict().items()}
    model.encoder = encoder.merge_and_unload()
    model.eval()

    tokenizer = load_tokenizer(directory, task.max_tokens)
    rows = [encoding.ids for encoding in tokenizer.encode_batch([example.text for example in dev])]
    targets = np.array([task.labels.index(example.label) for example in dev])
    calibration = fit_head(logits_of(model, rows).numpy(), targets, task, dataset_digest(dev))
    ids, mask = to_batch(rows[:COMPARED])
    dynamic = openvino.PartialShape([-1, -1])
    with torch.no_grad():
        converted = openvino.convert_model(
            model,
            example_input={"input_ids": ids, "attention_mask": mask},
            input=[
                ("input_ids", dynamic, openvino.Type.i64),
                ("attention_mask", dynamic, openvino.Type.i64),
            ],
        )
        expected = calibration.probabilities(model(ids, mask).numpy())
    for port, name in zip(converted.inputs, ("input_ids", "attention_mask"), strict=True):
        port.set_names({name})
        port.get_node().set_friendly_name(name)
    converted.output(0).set_names({"logits"})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.xml"
        openvino.save_model(converted, path, compress_to_fp16=True)
        xml, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    _check(xml, weights, ids, mask, expected, calibration)
    manifest = store.add(
        task=task,
        engine={"backend": "openvino", "precision": "auto"},
        contents={
            "model.xml": xml,
            "model.bin": weights,
            "tokenizer.json": (directory / "tokenizer.json").read_bytes(),
            HEAD: calibration.to_bytes(),
            "adapter/adapter_model.safetensors": save(adapter),
            "adapter/adapter_config.json": canonical_json(adapter_config),
            "classifier.safetensors": save(head),
        },
        base={"name": BASE_NAME, "digest": "sha256:" + BASE_SHA256},
        lineage=lineage,
    )
    return manifest.digest


def _check(
    xml: bytes, weights: bytes, ids: torch.Tensor, mask: torch.Tensor, expected: np.ndarray, calibration: Head
) -> None:
    core = openvino.Core()
    read = core.read_model(xml, weights)
    # Single precision, so that only the conversion is judged and not this machine's arithmetic.
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # One text at a time, unpadded: a batch or length frozen into the graph by tracing would show here.
    found = []
    for row, seen in zip(ids, mask, strict=True):
        length = int(seen.sum())
        inputs = {"input_ids": row[None, :length].numpy(), "attention_mask": seen[None, :length].numpy()}
        found.append(compiled(inputs)["logits"][0])
    difference = float(np.abs(calibration.probabilities(np.stack(found)) - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise ExportFailed(f"exported probabilities differ by {difference:.4f}, expected at most {MAX_DIFFERENCE}")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Turn a PEFT configuration into JSON: enums to their text, sets to sorted lists."""
    plain: dict[str, Any] = json.loads(
        json.dumps(value, default=lambda v: sorted(v) if isinstance(v, set | frozenset) else str(v))
    )
    return plain
