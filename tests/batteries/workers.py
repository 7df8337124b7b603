"""Every engine a worker runs, on tiny models made here: one process has them all, each with an oracle beside it."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_numpy
from safetensors.torch import load, save

from controlplane.training.ir import LabelRows, to_ir
from gateway.domain.capabilities import Capabilities
from protos.contract.base import BaseStore
from protos.contract.bundle import BundleStore
from protos.contract.task import TaskSpec
from tests.gateway.engines.fake_model import FakeModel, tokenizer_json
from tests.gateway.worker import tiny_ir, tiny_models
from tests.tasks import TASK

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "gateway" / "worker" / "trtllm"
SPOILED = "~"  # what the tiny models have no numbers for, though each of their weights is one
HUGE = float(np.finfo(np.float32).max)
NAMES = (
    "additive",
    "openvino encoder",
    "openvino decoder",
    "transformers decoder",
    "transformers encoder",
    "tensorrt_llm generate",
    "tensorrt_llm encode",
)


@dataclass
class Engine:
    """One kind of engine in the worker, a bundle on it, and what it has to answer.

    Attributes:
        expected: A text's log-probabilities in label order: of the vocabulary where the engine knows it,
            else among the labels.
        tolerance: Of a log-probability; wider where weights are kept in half precision.
        spoiled: A text that this model has no finite answer for; empty where there can be none.
        adapted: Takes LoRA adapters of this base beside it.
    """

    store: BundleStore
    engine: dict[str, Any]
    task: TaskSpec
    says: Capabilities
    expected: Callable[[str], list[float]]
    contents: dict[str, bytes] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-3
    spoiled: str = ""
    adapted: dict[str, bytes] = field(default_factory=dict)

    def bundle(
        self,
        contents: dict[str, bytes] | None = None,
        task: TaskSpec | None = None,
        base: dict[str, Any] | None = None,
        **engine: Any,
    ) -> str:
        """Add a bundle for this engine; ``contents`` are put over its own."""
        return self.store.add(
            task=task or self.task,
            engine={**self.engine, **engine},
            contents={**self.contents, **(contents or {})},
            base=self.base if base is None else base,
            lineage={"author": "trainer"},
        ).digest

    def rendered(self, text: str) -> str:
        """A text as the model reads it."""
        return self.task.template.format(text=text)


def among(logits: list[float]) -> list[float]:
    """Log-probabilities of labels among themselves."""
    top = max(logits)
    total = math.log(sum(math.exp(value - top) for value in logits)) + top
    return [value - total for value in logits]


class Workshop:
    """Makes the models once; ``engines`` holds what came out, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = BundleStore(root / "bundles")
        self.bases = BaseStore(self.store.root / "bases")
        self.engines: dict[str, Engine] = {}
        self._additive()
        self._openvino_encoder()
        self._torch_decoder()
        self._torch_encoder()
        self._tensorrt_llm()

    def _additive(self) -> None:
        weights = {"good": (1.5, -0.5), "bad": (-1.0, 2.0)}
        model = {
            "version": 1,
            "intercept": [0.25, 0.0],
            "fields": [
                {
                    "name": "text",
                    "kind": "terms",
                    "analyser": "words",
                    "terms": list(weights),
                    "rarity": [1.0, 1.0],
                    "weights": list(map(list, weights.values())),
                    "mean": [0.0, 0.0],
                }
            ],
        }

        def expected(text: str) -> list[float]:
            found = [weights[word] for word in text.split() if word in weights]
            assert len(found) < 2 or len(set(found)) == len(found)
            length = math.sqrt(max(1, len(found)))  # counts of one term each, of length one together
            return among([0.25 + sum(w[0] for w in found) / length, sum(w[1] for w in found) / length])

        self.engines["additive"] = Engine(
            self.store,
            {"backend": "additive"},
            TASK,
            Capabilities(),
            expected,
            {"additive.json": json.dumps(model).encode()},
        )

    def _openvino_encoder(self) -> None:
        self.engines["openvino encoder"] = Engine(
            self.store,
            {"backend": "openvino", "precision": "f32"},
            TASK,
            Capabilities(),
            lambda text: among(tiny_ir.logits(text)),
            {**tiny_ir.tiny_ir(self.root), "tokenizer.json": tiny_ir.TOKENIZER},
            spoiled="good broken",
        )

    def _torch_decoder(self) -> None:
        model = self._write("gemma3", "model.embed_tokens.weight", tie_word_embeddings=False)
        base = {"name": "gemma3", "digest": self.bases.add("gemma3", self.root / "gemma3")}
        tokenizer = tiny_models.tokenizer(bos=True)
        task = tiny_models.DECODER_TASK
        tokens = [tokenizer.encode(f" {label}").ids[-1] for label in task.labels]

        def whole(text: str) -> list[float]:
            ids = tokenizer.encode(task.template.format(text=text)).ids
            with torch.inference_mode():
                row = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1)
            return [float(row[token]) for token in tokens]

        constraints = ("choice", "regex", "json_schema")
        self.engines["transformers decoder"] = Engine(
            self.store,
            {"backend": "transformers", "head": "full"},
            task,
            Capabilities("exact", "per_request", True, constraints, can_generate=True, vocabulary_mass=True),
            whole,
            base=base,
            spoiled=f"a {SPOILED}",
            adapted=tiny_models.adapter(model, "gemma3", 3)[0],
        )
        ids = torch.tensor([tokenizer.encode(task.template.format(text="a page")).ids] * 2)
        graph = to_ir(LabelRows(model, tokens, writes=True).eval(), ids, torch.ones_like(ids))
        writes = {"end_tokens": [0], "positions": 64}
        self.engines["openvino decoder"] = Engine(
            self.store,
            {"backend": "openvino", "kind": "decoder", "precision": "f32", "label_tokens": tokens, "writes": writes},
            task,
            Capabilities(prefix_cache=True, constraints=constraints, can_generate=True),
            lambda text: among(whole(text)),
            {
                "model.xml": graph.xml,
                "model.bin": graph.weights,
                "tokenizer.json": (self.root / "gemma3" / "tokenizer.json").read_bytes(),
            },
            tolerance=0.02,
        )

    def _torch_encoder(self) -> None:
        model = self._write("bert", "embeddings.word_embeddings.weight")
        head = torch.nn.Linear(32, 2)
        tokenizer = tiny_models.tokenizer(bos=True)

        def expected(text: str) -> list[float]:
            with torch.inference_mode():
                states = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
                found: list[float] = head(states.mean(0)).tolist()
            return among(found)

        weights = {name: tensor.detach() for name, tensor in head.state_dict().items()}
        self.engines["transformers encoder"] = Engine(
            self.store,
            {"backend": "transformers", "kind": "encoder"},
            TASK,
            Capabilities("exact", "per_request"),
            expected,
            {"classifier.safetensors": save(weights)},
            {"name": "bert", "digest": self.bases.add("bert", self.root / "bert")},
            spoiled=f"a {SPOILED}",
            adapted=tiny_models.adapter(model, "bert", 3)[0],
        )

    def _tensorrt_llm(self) -> None:
        folder = self.root / "toy"
        folder.mkdir()
        config = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 300, "max_position_embeddings": 512}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(tokenizer_json())
        (folder / "model.safetensors").write_bytes(save_numpy({"w": np.zeros(2, np.float32)}))
        base = {"name": "toy", "digest": self.bases.add("toy", folder)}
        model = FakeModel()
        kept: dict[str, Any] = {"vocabulary_mass": True, "max_batch_tokens": 8192}
        writes: dict[str, Any] = {**kept, "can_generate": True, "constraints": ("json_schema", "regex")}
        for mode, exactness, says in (
            ("generate", "topk", Capabilities("topk", "per_request", True, **writes)),
            ("encode", "exact", Capabilities("exact", "none", False, **kept)),
        ):
            self.engines[f"tensorrt_llm {mode}"] = Engine(
                self.store,
                {"backend": "tensorrt_llm", "mode": mode},
                replace(TASK, max_tokens=256, label_logprobs=exactness),
                says,
                model.label_logprobs,
                base=base,
                spoiled="please nan",
                adapted=toy_adapter() if mode == "generate" else {},
            )

    def _write(self, name: str, embeddings: str, **changes: Any) -> Any:
        """Write a base that has no answer to SPOILED: its embedding is finite, what is computed from it is not."""
        folder = self.root / name
        model = tiny_models.write_base(folder, name, **changes)
        token = tiny_models.tokenizer().token_to_id(SPOILED)
        tensors = load((folder / "model.safetensors").read_bytes())
        tensors[embeddings][token] = HUGE
        (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        model.load_state_dict({embeddings: tensors[embeddings]}, strict=False)
        return model


def toy_adapter(inputs: int = 8, rank: int = 2, value: float = 0.5, **config: Any) -> dict[str, bytes]:
    """PEFT's two files for the stand-in's base."""
    targets = ["q_proj", "k_proj", "v_proj"]
    about = {"peft_type": "LORA", "target_modules": targets, "base_model_name_or_path": "toy"}
    settings = {**about, "r": rank, "lora_alpha": 4, **config}
    tensors = {}
    for target in targets:
        name = f"base_model.model.model.layers.0.self_attn.{target}"
        tensors[f"{name}.lora_A.weight"] = np.full((rank, inputs), value, np.float32)
        tensors[f"{name}.lora_B.weight"] = np.full((inputs, rank), value, np.float32)
    return {
        "adapter/adapter_config.json": json.dumps(settings).encode(),
        "adapter/adapter_model.safetensors": save_numpy(tensors),
    }


def start(workshop: Workshop) -> tuple["subprocess.Popen[bytes]", Path]:
    """Start the worker, with the stand-in for TensorRT-LLM in its path; return it and its socket."""
    socket = workshop.root / "w.sock"
    command = [sys.executable, "-m", "gateway.worker", "--socket", str(socket), "--bundles", str(workshop.store.root)]
    environment = {**os.environ, "PYTHONPATH": f"{STAND_IN}:{ROOT}", "FAKE_TRTLLM_BAND": "1.3"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL), socket
