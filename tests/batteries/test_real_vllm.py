"""vLLM itself, through the same adapter as its stand-in: label scores, adapters and constraints held to PyTorch's."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.evals.engines import Engines
from gateway.domain.capabilities import Constraint
from gateway.engines.remote import RemoteLink
from gateway.serving.ports import BundleRefused
from perf.peers import vllm
from perf.request import MODEL
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given
from protos.contract.servers import read_servers
from protos.decide_pb2 import Input
from tests.batteries.engines import TOKEN_TASK, TOKENIZER, make_engine
from tests.batteries.real_servers import Server, running
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


class Served:
    """A link to a running vLLM, and bundles for it."""

    def __init__(self, server: Server, root: Path, max_batch: int = 16) -> None:
        self.server = server
        self.store = BundleStore(root / "bundles")
        self.link = RemoteLink(
            make_engine("openai-http", server.port, max_batch, connections=2),
            name="vllm",
            kind="openai-http",
            models=(),
            store=self.store,
            max_in_flight=64,
            health_interval_s=0.1,
        )

    def bundle(self, contents: dict[str, bytes] | None = None, topk: bool = False, **changes: object) -> str:
        engine = {"backend": "openai-http", "preset": "vllm", "model": MODEL, **changes}
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

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name}{{.*}} (\S+)$", self.get("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


def tell(served: Served, story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        task = asyncio.create_task(served.link.run())
        try:
            await served.until(served.link.connected.is_set)
            await story()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), STORY_S))


def test_a_real_vllm_tells_what_a_full_forward_pass_does_and_adapters_share_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    def command(python: Path, folder: Path, port: int) -> Any:
        limits = ("--max-model-len", str(LONGEST), "--max-logprobs", str(FEW))
        return vllm.serve(python, folder, port, *limits, "--enable-lora", "--max-lora-rank", "16", "--max-loras", "2")

    with running(vllm.PEER, folder, decoder, command) as server:
        served = Served(server, tmp_path)

        async def story() -> None:
            link = served.link
            plain, few = served.bundle(), served.bundle(method="completions", top_logprobs=FEW, topk=True)
            adapters = {n: served.bundle(adapter={"name": n, "path": str(folder / n)}) for n in ("one", "two")}
            for bundle in (plain, few, *adapters.values()):
                await served.load(bundle)
            assert served.models() == {MODEL, "one", "two"}
            identity = await link.identify(plain)
            assert (identity.model, identity.server_version) == (str(folder / "model"), vllm.VERSION)

            # All at once: one running batch of vLLM's holds rows of the base and of both adapters.
            order = [(None, plain), *adapters.items()]
            found = await asyncio.gather(*[served.ask(bundle, TEXTS) for _, bundle in order])
            told = {
                name: np.array([r.label_logprobs for r in rows]) for (name, _), rows in zip(order, found, strict=True)
            }
            for name, rows in told.items():
                assert rows == pytest.approx(forward(folder, name, TEXTS), abs=CLOSE), name
            assert np.abs(told["one"] - told[None]).max() > 0.5  # the adapters do something
            assert np.abs(told["one"] - told["two"]).max() > 0.5
            assert max(r.batch_size for r in found[0]) > 1

            # Of the best few, what is told is exact, and what is not is a bound from above.
            for row, result in zip(told[None], await served.ask(few, TEXTS), strict=True):
                for exact, value in zip(row, result.label_logprobs, strict=True):
                    assert value == pytest.approx(exact, abs=CLOSE) or (result.bounded and value > exact)

            with pytest.raises(BundleRefused, match="gone.*No adapter found"):
                await link.load(served.bundle(adapter={"name": "gone", "path": str(folder / "gone")}))
            with pytest.raises(BundleRefused, match="adapter 'one' has path"):
                await link.load(served.bundle(adapter={"name": "one", "path": str(folder / "two")}))
            with pytest.raises(BundleRefused, match=f"logprobs of {FEW + 1}"):
                await link.load(served.bundle(method="completions", top_logprobs=FEW + 1, topk=True))
            with pytest.raises(BundleRefused, match="reads 512 tokens, expected 1024"):
                await link.load(
                    served.store.add(
                        task=replace(TOKEN_TASK, max_tokens=1024),
                        engine={"backend": "openai-http", "preset": "vllm", "model": MODEL},
                        contents=TOKENIZER,
                        base={},
                        lineage={},
                    ).digest
                )

            async def said(constraint: Constraint) -> str:
                stream = link.generate(plain, Given.of_text("a page"), MINUTE_US, 40, constraint)
                return "".join([chunk.text async for chunk in stream])

            choices = ("up high", "down")
            assert await said(Constraint("choice", choices=choices)) in choices
            assert re.fullmatch("[ab]{3}", await said(Constraint("regex", "[ab]{3}")))
            kept = json.loads(await said(Constraint("json_schema", '{"enum": [{"a": 1}, {"b": [2]}]}')))
            assert kept in ({"a": 1}, {"b": [2]})

            before = served.metric("vllm:generation_tokens_total")
            stream = link.generate(plain, Given.of_text("a page"), MINUTE_US, 250, Constraint("regex", "[ab]{250}"))
            await anext(stream)
            await stream.aclose()  # the reader leaves
            await served.until(lambda: served.metric("vllm:num_requests_running") == 0)
            assert served.metric("vllm:generation_tokens_total") < before + 250

            link.unload(adapters["two"])
            await served.until(lambda: served.models() == {MODEL, "one"})
            server.stop()
            await served.until(lambda: not link.connected.is_set())
            server.start()
            await served.until(lambda: adapters["one"] in link.ready)  # and has its adapter again
            again = await served.ask(adapters["one"], TEXTS)
            assert np.array([r.label_logprobs for r in again]) == pytest.approx(told["one"], abs=CLOSE)

        tell(served, story)
        _check_evaluation(served, folder)


def _check_evaluation(served: Served, folder: Path) -> None:
    """Hold an evaluation, through its relay, to the same answers."""
    digest = served.bundle(adapter={"name": "one", "path": str(folder / "one")})
    address = f"http://127.0.0.1:{served.server.port}"
    table = {"name": "far", "kind": "openai-http", "address": address, "max_batch": 16}
    bundles = served.store.root
    with Engines(bundles, read_servers([table], bundles)) as engines:
        engines.load(digest)
        scores = engines.score(digest, [Input(text=text) for text in TEXTS])
        about = engines.elsewhere(digest)
    powers = np.exp(forward(folder, "one", TEXTS))
    assert scores.probabilities == pytest.approx(powers / powers.sum(1, keepdims=True), abs=CLOSE)
    assert about is not None
    assert about["servers"][0]["server_version"] == vllm.VERSION


def test_a_real_vllm_classifies_with_its_own_head(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    def command(python: Path, folder: Path, port: int) -> Any:
        return vllm.serve(python, folder, port, "--runner", "pooling", "--convert", "classify")

    with running(vllm.PEER, folder, classifier, command) as server:
        served = Served(server, tmp_path)

        async def story() -> None:
            bundle = served.bundle(method="classify")
            await served.load(bundle)
            results = await served.ask(bundle, TEXTS)
            model: Any = Qwen3ForSequenceClassification.from_pretrained(folder / "model").eval()
            reference = FakeModel()
            with torch.no_grad():
                rows = [model(torch.tensor([reference.encode(t)])).logits[0].softmax(-1).tolist() for t in TEXTS]
            assert np.array([list(r.probabilities) for r in results]) == pytest.approx(np.array(rows), abs=CLOSE)
            with pytest.raises(BundleRefused, match="logprob_token_ids"):
                await served.link.load(served.bundle())  # it has no such endpoint

        tell(served, story)
