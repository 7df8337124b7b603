"""From trained weights to a bundle: merge the adapter, convert to OpenVINO, check that both agree, add."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save

from controlplane.packs.example import Example
from controlplane.training.calibration import fit_head
from controlplane.training.dataset import dataset_digest
from controlplane.training.ir import to_ir
from controlplane.training.lora import (
    Base,
    Classifier,
    LabelScorer,
    Model,
    as_prompt,
    folding_tokenizer,
    logits_of,
    plain_config,
    to_batch,
    token_rows,
)
from controlplane.training.probes import record_probes
from protos.contract.base import FOLDER, BaseStore
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json
from protos.contract.head import HEAD, Head
from protos.contract.probe import PROBES
from protos.contract.task import TaskSpec

COMPARED = 8  # texts
MAX_DIFFERENCE = 0.05  # of a probability: half precision stays far below it, a wrong conversion does not


class ExportFailed(Exception):
    """The exported engine does not answer as the trained model does."""


def export(
    model: Model,
    base: Base,
    task: TaskSpec,
    dev: Sequence[Example],
    *,
    verbalizers: Mapping[str, str],
    store: BundleStore,
    lineage: Mapping[str, Any],
) -> str:
    """Write a bundle and return its digest.

    The head is fitted on ``dev``. An encoder is merged, in place, and converted, and the first texts are compared
    through both engines. A decoder's bundle
    holds the adapter and refers to the base, which is kept once beside the bundles.

    Raises:
        ExportFailed: A probability differs by more than ``MAX_DIFFERENCE``.
    """
    wrapped: Any = model.encoder if isinstance(model, Classifier) else model.decoder
    adapter = {name: value.detach().contiguous() for name, value in get_peft_model_state_dict(wrapped).items()}
    targets = np.array([task.labels.index(example.label) for example in dev])
    rows = token_rows(base, task, [example.text for example in dev])
    logits = logits_of(model, rows).numpy()
    calibration = fit_head(logits, targets, task, dataset_digest(dev))
    prompts = [example.text if isinstance(model, Classifier) else as_prompt(task, example.text) for example in dev]
    contents = {
        HEAD: calibration.to_bytes(),
        PROBES: record_probes(prompts, logits, calibration),
        "adapter/adapter_model.safetensors": save(adapter),
        "adapter/adapter_config.json": canonical_json(plain_config(wrapped.peft_config["default"], base.name)),
    }
    if isinstance(model, LabelScorer):
        written = {label: verbalizers.get(label, " " + label) for label in task.labels}
        manifest = store.add(
            task=task,
            engine={"backend": "transformers", "kind": "decoder", "verbalizers": written},
            contents=contents,
            base={"name": base.name, "digest": BaseStore(store.root / FOLDER).add(base.name, base.directory)},
            lineage=lineage,
        )
        return manifest.digest
    contents |= _converted(model, base, calibration, rows[:COMPARED])
    manifest = store.add(
        task=task,
        engine={"backend": "openvino", "precision": "auto", "merged": True},
        contents=contents,
        base={"name": base.name, "digest": base.digest},
        lineage=lineage,
    )
    return manifest.digest


def _converted(model: Classifier, base: Base, calibration: Head, rows: Sequence[Sequence[int]]) -> dict[str, bytes]:
    """Merge the adapter into the encoder and convert both with the head; return the bundle's files."""
    encoder: Any = model.encoder
    head = {name: value.detach().contiguous() for name, value in model.head.state_dict().items()}
    model.encoder = encoder.merge_and_unload()
    model.eval()
    ids, mask = to_batch(rows)
    with torch.no_grad():
        expected = calibration.probabilities(model(ids, mask).numpy())
    graph = to_ir(model, ids, mask)
    _check(graph.xml, graph.weights, ids, mask, expected, calibration)
    return {
        "model.xml": graph.xml,
        "model.bin": graph.weights,
        "tokenizer.json": folding_tokenizer(base).to_str().encode(),
        "classifier.safetensors": save(head),
    }


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
