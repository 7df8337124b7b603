"""Tiny random models in a store, each with two adapters and the library's own models beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from transformers.utils.logging import disable_progress_bar

from gateway.worker.backend import Host, Prepared
from gateway.worker.engine import Engine, open_engine
from protos.contract.base import BaseStore
from protos.contract.bundle import Bundle, BundleStore
from protos.contract.task import TaskSpec
from tests.gateway.worker import tiny_models
from tests.gateway.worker.tiny_models import DECODER_TASK, DECODERS, MAKERS
from tests.tasks import TASK

disable_progress_bar()
A, B = 11, 12  # seeds of adapters
_random = torch.Generator().manual_seed(5)
CLASSES = {
    "classifier.safetensors": save(
        {"weight": 0.2 * torch.randn(2, 32, generator=_random), "bias": torch.randn(2, generator=_random)}
    )
}


class Base:
    """One tiny model in a store, with its two adapters and the library's own models."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.model = tiny_models.write_base(root / name, name)
        self.bases = BaseStore(root / "bases")
        self.digest = self.bases.add(name, root / name)
        self.store = BundleStore(root / "bundles")
        self.files, self.tuned = {}, {0: self.model}
        for seed in (A, B):
            self.files[seed], self.tuned[seed] = tiny_models.adapter(self.model, name, seed)

    @property
    def is_decoder(self) -> bool:
        return self.name in DECODERS

    def host(self, **changes: Any) -> Host:
        return Host(bases=self.bases, **changes)

    def bundle(
        self, seed: int = 0, contents: dict[str, bytes] | None = None, task: TaskSpec | None = None, **engine: Any
    ) -> Bundle:
        files = {**self.files.get(seed, {}), **({} if self.is_decoder else CLASSES), **(contents or {})}
        kind = {} if self.is_decoder else {"kind": "encoder"}
        manifest = self.store.add(
            task=task or (DECODER_TASK if self.is_decoder else TASK),
            engine={"backend": "transformers", **kind, **engine},
            contents=files,
            base={"name": self.name, "digest": self.digest},
            lineage={},
        )
        return self.store.load(manifest.digest)

    def open(self, host: Host, seed: int = 0, **engine: Any) -> Engine:
        return open_engine(self.bundle(seed, **engine), host)

    def expected(self, seed: int, text: str) -> np.ndarray:
        """The library's log-probabilities over the vocabulary, or the encoder's logits."""
        with torch.inference_mode():
            if self.is_decoder:
                rendered = DECODER_TASK.template.format(text=text)
                ids = tiny_models.tokenizer(bos=self.name != "qwen3").encode(rendered).ids
                return torch.log_softmax(self.tuned[seed](torch.tensor([ids])).logits[0, -1].float(), -1).numpy()
            ids = tiny_models.tokenizer(bos=True).encode(text).ids[: TASK.max_tokens]
            head = load(CLASSES["classifier.safetensors"])
            state = self.tuned[seed](torch.tensor([ids])).last_hidden_state[0].mean(0)
            return torch.nn.functional.linear(state, head["weight"], head["bias"]).numpy()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    root = tmp_path_factory.mktemp("models")
    return {name: Base(root, name) for name in MAKERS}


@pytest.fixture(params=list(MAKERS))
def base(bases: dict[str, Base], request: pytest.FixtureRequest) -> Base:
    return bases[request.param]


@pytest.fixture(params=list(DECODERS))
def decoder(bases: dict[str, Base], request: pytest.FixtureRequest) -> Base:
    return bases[request.param]


@pytest.fixture
def qwen(bases: dict[str, Base]) -> Base:
    return bases["qwen3"]


def prepare(engine: Engine, text: str) -> Prepared:
    return engine.backend.prepare(engine.task.template.format(text=text))
