"""The TensorRT-LLM backend against a strict stand-in with the recorded signatures and quirks."""

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from gateway.engines.link import WorkerLink
from gateway.serving.ports import BundleRefused, GenerationFailed
from protos import engine_pb2
from protos.contract.base import BaseStore
from protos.contract.bundle import BundleStore
from protos.contract.given import Given
from tests.batteries.engines import PATIENCE_S, ROOT, worker
from tests.gateway.engines.fake_model import ANSWER, FakeModel, tokenizer_json
from tests.tasks import TASK

FAKE = Path(__file__).with_name("trtllm")
TOPK = replace(TASK, max_tokens=256, label_logprobs="topk")
MINUTE_US = 60_000_000


class Rig:
    """A worker that has the stand-in, a base and a store."""

    def __init__(self, root: Path, link: WorkerLink) -> None:
        self.link = link
        self.store = BundleStore(root / "bundles")
        self.bases = BaseStore(root / "bundles" / "bases")
        self.model = FakeModel()
        self.base = self.add_base()

    def add_base(self, **config: Any) -> str:
        folder = self.store.root.parent / f"base-{len(config)}"
        folder.mkdir(exist_ok=True)
        settings = {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "vocab_size": 300,
            "max_position_embeddings": 512,
            **config,
        }
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text(tokenizer_json())
        (folder / "model.safetensors").write_bytes(save({"w": np.zeros(2, np.float32)}))
        return self.bases.add("tiny", folder)

    def bundle(
        self, task: Any = TOPK, base: str | None = None, adapter: dict[str, bytes] | None = None, **engine: Any
    ) -> str:
        return self.store.add(
            task=task,
            engine={"backend": "tensorrt_llm", **engine},
            contents=adapter or {},
            base={"name": "tiny", "digest": base or self.base},
            lineage={},
        ).digest

    async def ask(self, bundle: str, text: str) -> engine_pb2.Result:
        _, future = self.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)
        return await future


def environment(band: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{FAKE}:{ROOT}", "FAKE_TRTLLM_BAND": band}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a worker that has the stand-in; one process for all tests that do not need another band."""
    root = tmp_path_factory.mktemp("t")
    command = [sys.executable, "-m", "gateway.worker", "--socket", str(root / "w.sock")]
    command += ["--bundles", str(root / "bundles")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment("1.3"), stderr=subprocess.DEVNULL)
    yield root
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def run(root: Path, story: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        link = WorkerLink(str(root / "w.sock"))
        task = asyncio.create_task(link.run())
        try:
            await link.connected.wait()
            await story(Rig(root, link))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def run_alone(root: Path, story: Callable[[Rig], Awaitable[None]], band: str) -> None:
    async def main() -> None:
        async with worker(root, environment=environment(band)) as link:
            await story(Rig(root, link))

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def adapter(
    rank: int = 2, inputs: int = 8, value: float = 0.5, layers: tuple[int, ...] = (0,), lacks: str = "", **config: Any
) -> dict[str, bytes]:
    targets = ["q_proj", "k_proj", "v_proj"]
    about = {"peft_type": "LORA", "target_modules": targets, "base_model_name_or_path": "tiny"}
    settings = {**about, "r": rank, "lora_alpha": 4, **config}
    tensors = {}
    for name in [f"base_model.model.model.layers.{i}.self_attn.{target}" for i in layers for target in targets]:
        if lacks and lacks in name:
            continue
        tensors[f"{name}.lora_A.weight"] = np.full((rank, inputs), value, np.float32)
        tensors[f"{name}.lora_B.weight"] = np.full((inputs, rank), value, np.float32)
    weights = save(tensors)
    return {"adapter/adapter_config.json": json.dumps(settings).encode(), "adapter/adapter_model.safetensors": weights}


def test_every_mode_scores_the_models_own_log_probabilities(home: Path) -> None:
    async def story(rig: Rig) -> None:
        exact = replace(TOPK, label_logprobs="exact")
        bundles = {
            rig.bundle(): "topk",
            rig.bundle(exact, generation_logits=True): "exact",
            rig.bundle(exact, mode="encode"): "exact",
        }
        for bundle, exactness in bundles.items():
            await rig.link.load(bundle)
            found = rig.link.capabilities(bundle)
            assert found is not None
            assert found.label_logprobs == exactness
            results = await asyncio.gather(*[rig.ask(bundle, f"page {i}") for i in range(20)])
            for i, result in enumerate(results):
                assert result.status == engine_pb2.RESULT_STATUS_OK, result.message
                expected = rig.model.label_logprobs(f"page {i}")
                assert result.label_logprobs == pytest.approx(expected, abs=1e-4)
                assert result.vocabulary_mass == pytest.approx(sum(np.exp(expected)), abs=1e-4)
            assert (await rig.ask(bundle, "please nan")).status == engine_pb2.RESULT_STATUS_ENGINE_ERROR

    run(home, story)


def test_one_request_that_is_refused_fails_alone(home: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = rig.bundle()
        await rig.link.load(bundle)
        results = await asyncio.gather(*[rig.ask(bundle, text) for text in ("a page", "please refuse", "b page")])
        assert [r.status == engine_pb2.RESULT_STATUS_OK for r in results] == [True, False, True]
        assert "request refused: the prompt is too long" in results[1].message
        refusing = rig.bundle(overlong="refuse")
        await rig.link.load(refusing)
        result = await rig.ask(refusing, "y" * 300)
        assert result.status == engine_pb2.RESULT_STATUS_BAD_INPUT

    run(home, story)


def test_a_dead_engine_serves_nothing_until_it_is_loaded_anew(home: Path) -> None:
    async def story(rig: Rig) -> None:
        first, second = rig.bundle(), rig.bundle(adapter=adapter())
        await rig.link.load(first)
        await rig.link.load(second)
        result = await rig.ask(first, "please die")
        assert result.status == engine_pb2.RESULT_STATUS_ENGINE_ERROR
        assert "failed for good: CUDA error" in result.message
        async with asyncio.timeout(PATIENCE_S):
            while not {first, second} <= rig.link.ready or rig.link.in_flight:  # both sat on the dead engine
                await asyncio.sleep(0.01)
        assert (await rig.ask(first, "a page")).status == engine_pb2.RESULT_STATUS_OK
        assert (await rig.ask(second, "a page")).status == engine_pb2.RESULT_STATUS_OK

    run(home, story)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("please cancel", "finish_reason is 'cancelled'"),
        ("please tell", "request refused: the cache is full"),
    ],
)
def test_an_answer_without_scores_fails_alone(text: str, said: str, home: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = rig.bundle()
        await rig.link.load(bundle)
        results = await asyncio.gather(*[rig.ask(bundle, one) for one in ("a page", text, "b page")])
        assert [r.status == engine_pb2.RESULT_STATUS_OK for r in results] == [True, False, True]
        assert said in results[1].message
        assert bundle in rig.link.ready

    run(home, story)


def test_a_text_that_the_engine_breaks_off_is_not_whole(home: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = rig.bundle()
        await rig.link.load(bundle)
        with pytest.raises(GenerationFailed, match="finish_reason is 'cancelled'"):
            async for _ in rig.link.generate(bundle, Given.of_text("please cancel"), MINUTE_US, 64):
                pass

    run(home, story)


def test_an_adapter_that_the_engine_cannot_read_takes_no_other_bundle_with_it(home: Path) -> None:
    async def story(rig: Rig) -> None:
        live = rig.bundle()
        await rig.link.load(live)
        with pytest.raises(BundleRefused, match=r"request refused: .*layers\.0"):
            await rig.link.load(rig.bundle(adapter=adapter(note="unreadable")))
        assert live in rig.link.ready
        assert (await rig.ask(live, "a page")).status == engine_pb2.RESULT_STATUS_OK

    run(home, story)


def test_adapters_answer_for_their_own_bundle_in_one_batch_on_one_model(home: Path) -> None:
    async def story(rig: Rig) -> None:
        plain, one, two = rig.bundle(), rig.bundle(adapter=adapter()), rig.bundle(adapter=adapter(lora_alpha=8))
        for bundle in (plain, one, two):
            await rig.link.load(bundle)
        answers = await asyncio.gather(*[rig.ask(bundle, "a page") for bundle in (plain, one, two)])
        assert len({tuple(a.label_logprobs) for a in answers}) == 3
        assert all(a.status == engine_pb2.RESULT_STATUS_OK for a in answers)

    run(home, story)


def test_text_is_streamed_and_constrained(home: Path) -> None:
    from gateway.domain.capabilities import Constraint

    async def story(rig: Rig) -> None:
        bundle = rig.bundle()
        await rig.link.load(bundle)

        async def said(constraint: Constraint | None) -> str:
            stream = rig.link.generate(bundle, Given.of_text("a page"), MINUTE_US, 64, constraint)
            return "".join([chunk.text async for chunk in stream])

        assert await said(None) == ANSWER
        assert await said(Constraint("regex", "yes|no")) == " kept yes|no"

    run(home, story)


def test_what_does_not_fit_is_refused_when_it_is_loaded(home: Path) -> None:
    async def story(rig: Rig) -> None:
        corrupt = adapter() | {"adapter/adapter_model.safetensors": struct.pack("<Q", 10**9) + b"{}"}
        exact = replace(TOPK, label_logprobs="exact")
        refused = {
            "base_model_name_or_path is 'other'": rig.bundle(adapter=adapter(base_model_name_or_path="other")),
            "r is 128, expected a rank from 1 to 64": rig.bundle(adapter=adapter(rank=128)),
            "modules_to_save": rig.bundle(adapter=adapter(modules_to_save=["lm_head"])),
            "peft_type is 'IA3', expected 'LORA'": rig.bundle(adapter=adapter(peft_type="IA3")),
            "rank_pattern is": rig.bundle(adapter=adapter(rank_pattern={"q_proj": 1})),
            "'up_proj', which": rig.bundle(adapter=adapter(target_modules=["q_proj", "k_proj", "v_proj", "up_proj"])),
            "targets 'lm_head'": rig.bundle(adapter=adapter(target_modules=["q_proj", "k_proj", "v_proj", "lm_head"])),
            "q_proj, k_proj, v_proj together": rig.bundle(adapter=adapter(target_modules=["q_proj"])),
            r"layers\.2\.\S+\.weight, expected one of the 2 layers that the base has": rig.bundle(
                adapter=adapter(layers=(0, 2))
            ),
            "layer 1 has no v_proj, expected q_proj, k_proj, v_proj together": rig.bundle(
                adapter=adapter(layers=(0, 1), lacks="layers.1.self_attn.v_proj")
            ),
            "target_modules is '.*_proj', expected a list": rig.bundle(adapter=adapter(target_modules=".*_proj")),
            "expected 8 inputs as the base has": rig.bundle(adapter=adapter(inputs=16)),
            "is not finite": rig.bundle(adapter=adapter(value=float("nan"))),
            "adapter_model.safetensors:": rig.bundle(adapter=corrupt),
            "expected merged weights": rig.bundle(exact, mode="encode", adapter=adapter()),
            "is not one token behind the prompt": rig.bundle(verbalizers={"safe": " entirely safe"}),
            "unknown fields: surprise": rig.bundle(surprise=1),
            "max_num_tokens is 16": rig.bundle(max_num_tokens=16),
            "expected at most the base's 511": rig.bundle(replace(TOPK, max_tokens=512)),  # and one that it writes
            "expected at most the base's 512": rig.bundle(replace(exact, max_tokens=513), mode="encode"),
            "logprobs must be less than or equal to 100": rig.bundle(top_logprobs=101),
            "TensorRT-LLM refuses the model": rig.bundle(base=rig.add_base(model_type="unsupported")),
        }
        for reason, bundle in refused.items():
            with pytest.raises(BundleRefused, match=reason):
                await rig.link.load(bundle)

    run(home, story)


def test_a_version_without_encode_says_so_and_generates(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        with pytest.raises(BundleRefused, match=r"encode mode needs LLM.encode of 1.3 or later, this is 1.2.1"):
            await rig.link.load(rig.bundle(replace(TOPK, label_logprobs="exact"), mode="encode"))
        bundle = rig.bundle()
        await rig.link.load(bundle)
        assert (await rig.ask(bundle, "a page")).label_logprobs == pytest.approx(
            rig.model.label_logprobs("a page"), abs=1e-4
        )

    run_alone(tmp_path, story, "1.2")


def check(*arguments: str, band: str = "1.3", path: str = f"{FAKE}:{ROOT}") -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": path, "FAKE_TRTLLM_BAND": band}
    command = [sys.executable, "-m", "gateway.worker.tensorrt_llm", "--check", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("band", ["1.2", "1.3"])
def test_the_check_finds_an_installation_as_recorded(band: str) -> None:
    code, said = check(band=band)
    assert (code, said["band"], said["differences"]) == (0, band, [])


def test_the_check_prints_how_an_installation_differs() -> None:
    code, said = check("--band", "1.2", band="1.3")
    assert code == 1
    assert "tensorrt_llm.LLM.encode exists, expected none before a later band" in said["differences"]
    code, said = check("--band", "1.3", band="1.2")
    assert code == 1
    assert "tensorrt_llm.LLM.encode is missing" in said["differences"]
    assert "tensorrt_llm.LLM.generate_async takes no 'priority'" in said["differences"]


def test_the_check_says_when_there_is_nothing_to_check() -> None:
    code, said = check(path=str(ROOT))
    assert (code, said["installed"]) == (3, None)
