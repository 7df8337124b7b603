"""Random models small enough for any server, what PyTorch says of them, and a link to a server that has one."""

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.evals.engines import Engines
from gateway.engines.remote import RemoteLink
from gateway.serving.ports import BundleRefused
from perf.request import MODEL
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given
from protos.contract.servers import read_servers
from protos.decide_pb2 import Input
from tests.batteries.engines import TOKEN_TASK, TOKENIZER, make_engine
from tests.batteries.real_servers import Server
from tests.gateway.engines.fake_model import FakeModel, tokenizer_json

for needed in ("torch", "transformers", "peft"):
    pytest.importorskip(needed, reason="the train extra is not installed")

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

START_S = 240.0
STORY_S = 380.0
MINUTE_US = 60_000_000
OK = engine_pb2.RESULT_STATUS_OK
LONGEST = 512
FEW = 270  # of 274 tokens: a random model has its labels anywhere among them
CLOSE = 2e-4  # natural logarithms; both compute in single precision, in another order
TEXTS = ["a calm page", "an angry page", "x", *("the answer is " + "y" * n for n in range(1, 18))]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=Tokenizer.from_str(tokenizer_json()).get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        num_labels=2,
    )


def save(model: Any, folder: Path) -> None:
    model.eval().save_pretrained(folder)
    tokenizer = Tokenizer.from_str(tokenizer_json())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tokenizer.id_to_token(0)).save_pretrained(folder)


def decoder(folder: Path) -> None:
    """Write a random decoder, and two random adapters for it."""
    torch.manual_seed(0)
    save(Qwen3ForCausalLM(config()), folder / "model")
    for number, name in enumerate(("one", "two"), 1):
        torch.manual_seed(number)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(Qwen3ForCausalLM.from_pretrained(folder / "model"), lora).save_pretrained(folder / name)


def classifier(folder: Path) -> None:
    torch.manual_seed(3)
    model = Qwen3ForSequenceClassification(config())
    torch.nn.init.normal_(model.score.weight, std=0.2)
    save(model, folder / "model")


def forward(folder: Path, adapter: str | None, texts: list[str]) -> np.ndarray:
    """Run each text through the whole model; returns its labels' log-probabilities, shape [texts, 2]."""
    model: Any = Qwen3ForCausalLM.from_pretrained(folder / "model").eval()
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder / adapter).eval()
    reference = FakeModel()
    with torch.no_grad():
        rows = [model(torch.tensor([reference.encode(text)])).logits[0, -1].log_softmax(-1) for text in texts]
    return np.array([row[reference.label_ids].tolist() for row in rows])


def classified(folder: Path, texts: list[str]) -> np.ndarray:
    """Run each text through the whole classifier; returns its labels' probabilities, shape [texts, 2]."""
    model: Any = Qwen3ForSequenceClassification.from_pretrained(folder / "model").eval()
    reference = FakeModel()
    with torch.no_grad():
        rows = [model(torch.tensor([reference.encode(text)])).logits[0].softmax(-1).tolist() for text in texts]
    return np.array(rows)


class Served:
    """A link to a running server, and bundles for it."""

    def __init__(
        self, server: Server, root: Path, engine: dict[str, Any], max_batch: int = 16, connections: int = 2
    ) -> None:
        self.server = server
        self.store = BundleStore(root / "bundles")
        self.engine = engine
        self._max_batch = max_batch
        self._connections = connections

    def connect(self) -> None:
        """Make the link, on the loop that it is used on."""
        kind = self.engine["backend"]
        self.link = RemoteLink(
            make_engine(kind, self.server.port, self._max_batch, self._connections),
            name="far",
            kind=kind,
            models=(),
            store=self.store,
            max_in_flight=64,
            health_interval_s=0.1,
        )

    def bundle(self, contents: dict[str, bytes] | None = None, topk: bool = False, **changes: object) -> str:
        engine = {**self.engine, "model": MODEL, **changes}
        task = replace(TOKEN_TASK, label_logprobs="topk" if topk else "exact")
        found = TOKENIZER if contents is None else contents
        return self.store.add(task=task, engine=engine, contents=found, base={}, lineage={}).digest

    async def until(self, is_true: Callable[[], bool | Awaitable[bool]]) -> None:
        async with asyncio.timeout(START_S):
            while True:
                found = is_true()
                if found if isinstance(found, bool) else await found:
                    return
                assert not self.server.has_ended, self.server.log()
                await asyncio.sleep(0.1)

    async def load(self, bundle: str) -> None:
        """Load a bundle, however long the server's first answer takes here."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    return await self.link.load(bundle)
                except BundleRefused as error:
                    if "no answer within" not in str(error):
                        raise

    async def ask(self, bundle: str, texts: list[str]) -> list[engine_pb2.Result]:
        futures = [self.link.submit(bundle, Given.of_text(t), MINUTE_US, engine_pb2.PRIORITY_LIVE)[1] for t in texts]
        results = await asyncio.gather(*futures)
        assert {result.message for result in results if result.status != OK} == set()
        return results

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def models(self) -> set[str]:
        return {model["id"] for model in json.loads(self.get("/v1/models"))["data"]}


def tell(served: Served, story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        served.connect()
        task = asyncio.create_task(served.link.run())
        try:
            await served.until(served.link.connected.is_set)
            await story()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), STORY_S))


def check_evaluation(
    served: Served, folder: Path, kind: str, address: str, version: str, *, max_batch: int, adapter: str | None = None
) -> None:
    """Hold an evaluation, through its relay, to what a full forward pass says."""
    named = {} if adapter is None else {"adapter": {"name": adapter, "path": str(folder / adapter)}}
    digest, bundles = served.bundle(**named), served.store.root
    table = {"name": "far", "kind": kind, "address": address, "max_batch": max_batch}
    with Engines(bundles, read_servers([table], bundles)) as engines:
        engines.load(digest)
        scores = engines.score(digest, [Input(text=text) for text in TEXTS])
        about = engines.elsewhere(digest)
    powers = np.exp(forward(folder, adapter, TEXTS))
    assert scores.probabilities == pytest.approx(powers / powers.sum(1, keepdims=True), abs=CLOSE)
    assert about is not None
    assert about["servers"][0]["server_version"] == version
