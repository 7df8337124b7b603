"""LoRA adapters on servers elsewhere: chosen by each request, loaded and forgotten with their bundle."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.serving.ports import BundleRefused, WorkerAway
from protos import engine_pb2
from protos.contract.given import Given
from tests.batteries.engines import CASES, PATIENCE_S, http, remote
from tests.gateway.engines.fake_model import MODEL, VERBALIZERS

MINUTE_US = 60_000_000
PATH = "/models/adapter"
LOADING = ("openai vllm", "openai sglang", "openai sglang completions", "sglang-grpc")
FORGETTING = ("openai vllm", "openai vllm gathered")


async def ask(rig: Any, bundle: str, text: str = "a page") -> engine_pb2.Result:
    _, future = rig.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)
    result: engine_pb2.Result = await future
    return result


async def change(rig: Any, what: str, **body: object) -> None:
    """Have somebody else change what the server holds."""
    version = "/v1" if rig.case.engine["preset"] == "vllm" else ""
    url = f"http://127.0.0.1:{rig.port}{version}/{what}_lora_adapter"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize("name", ["openai trtllm-serve", *LOADING])
def test_bundles_with_adapters_share_a_server_with_one_that_has_none(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            plain = rig.bundle()
            one = rig.bundle(adapter={"name": "one", "path": PATH})
            two = rig.bundle(adapter={"name": "two", "path": PATH})
            for bundle in (plain, one, two):
                await rig.link.load(bundle)
            found = await asyncio.gather(*[ask(rig, bundle) for bundle in (plain, one, two)])
            assert all(result.status == engine_pb2.RESULT_STATUS_OK for result in found)
            for text, result in zip(("a page", "one:a page", "two:a page"), found, strict=True):
                assert result.label_logprobs == pytest.approx(rig.expected(text), abs=1e-4)
            if name in LOADING:
                rig.link.unload(one)
                await rig.link.load(plain)
                assert (await ask(rig, two)).status == engine_pb2.RESULT_STATUS_OK

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", LOADING)
def test_an_adapter_that_the_server_does_not_find_is_refused_when_it_is_loaded(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            with pytest.raises(BundleRefused, match="missing"):
                await rig.link.load(rig.bundle(adapter={"name": "gone", "path": "/missing/adapter"}))
            with pytest.raises(BundleRefused, match=r"adapter\.path"):
                await rig.link.load(rig.bundle(adapter={"name": "gone"}))
            there = rig.bundle(adapter={"name": "gone", "path": PATH})
            await rig.link.load(there)
            rig.link.unload(there)  # those that were refused do not hold it
            with pytest.raises(BundleRefused, match=r"adapter\.path"):
                await rig.link.load(rig.bundle(adapter={"name": "gone"}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", LOADING)
def test_an_adapter_whose_load_is_taken_back_does_not_stay_at_the_server(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            slow = rig.bundle(adapter={"name": "one", "path": "/slow/adapter"})
            loading = asyncio.create_task(rig.link.load(slow))
            await rig.model.until(started=1)  # the server has it, and has not said so
            rig.link.unload(slow)
            await asyncio.gather(loading, return_exceptions=True)
            with pytest.raises(BundleRefused, match=r"'one' is not loaded .*adapter\.path"):
                await rig.link.load(rig.bundle(adapter={"name": "one"}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize(
    ("name", "path"), [("openai sglang classify", "classify"), ("openai trtllm-serve embeddings", "embeddings")]
)
def test_an_endpoint_without_adapters_says_so(name: str, path: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            with pytest.raises(BundleRefused, match=f"/v1/{path} has no adapters"):
                await rig.link.load(rig.bundle(adapter={"name": "one", "path": PATH}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", ["openai vllm", "openai sglang", "openai sglang completions"])
def test_a_name_that_stands_for_other_weights_at_the_server_is_refused(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            await rig.link.load(rig.bundle(adapter={"name": "one", "path": PATH}))
            await rig.link.load(rig.bundle(adapter={"name": "one", "path": PATH}, verbalizers=VERBALIZERS))
            with pytest.raises(BundleRefused, match="'one' has path '/models/adapter', expected '/models/newer'"):
                await rig.link.load(rig.bundle(adapter={"name": "one", "path": "/models/newer"}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize(("preset", "asked"), [("vllm", "logprob_token_ids"), ("sglang", "token_ids_logprob")])
def test_a_server_that_cannot_tell_of_label_tokens_is_refused_and_may_be_asked_for_its_best_few(
    preset: str, asked: str, tmp_path: Path
) -> None:
    async def story() -> None:
        old = replace(CASES[f"openai {preset}"], start=http(preset, is_old=True))
        async with remote("old", tmp_path, case=old) as rig:
            with pytest.raises(BundleRefused, match=f'expected one that answers {asked}, or method = "comp'):
                await rig.link.load(rig.bundle())
            few = rig.bundle(task=replace(rig.case.task, label_logprobs="topk"), method="completions")
            await rig.link.load(few)
            assert (await ask(rig, few)).status == engine_pb2.RESULT_STATUS_OK

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_more_best_tokens_than_the_server_tells_are_refused_when_the_bundle_is_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai vllm completions", tmp_path) as rig:
            await rig.link.load(rig.bundle(top_logprobs=20))
            with pytest.raises(BundleRefused, match="sample logprobs of 21"):
                await rig.link.load(rig.bundle(top_logprobs=21))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_an_answer_that_comes_in_many_pieces_is_read_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai vllm", tmp_path) as rig:
            result = await ask(rig, await rig.loaded(), "please be long")
            assert result.status == engine_pb2.RESULT_STATUS_OK, result.message

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", [*FORGETTING, "openai sglang", "openai sglang gathered"])
def test_an_adapter_that_the_server_forgot_is_loaded_again(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path, health_interval_s=3600.0) as rig:
            bundle = rig.bundle(adapter={"name": "one", "path": PATH})
            await rig.link.load(bundle)
            if "vllm" in name:
                await change(rig, "unload", lora_name="one")
            else:  # only one that was started anew forgets
                assert rig.stop is not None
                await rig.stop()
                await rig.start()
            result = await ask(rig, bundle)  # and nobody asks after the server's health meanwhile
            assert result.status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE, result.message
            await until(lambda: bundle in rig.link.ready)
            result = await ask(rig, bundle)
            assert result.label_logprobs == pytest.approx(rig.expected("one:a page"), abs=1e-4)

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", FORGETTING)
def test_an_adapter_is_missed_and_loaded_again_before_anybody_asks_for_it(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            bundle = rig.bundle(adapter={"name": "one", "path": PATH})
            await rig.link.load(bundle)
            rig.model.started.clear()
            await change(rig, "unload", lora_name="one")
            await rig.model.until(started=1)  # what a load asks
            await until(lambda: bundle in rig.link.ready)
            assert (await ask(rig, bundle)).status == engine_pb2.RESULT_STATUS_OK

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_an_adapter_that_sglang_put_aside_is_left_to_come_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai sglang", tmp_path) as rig:
            bundle = rig.bundle(adapter={"name": "one", "path": PATH})
            await rig.link.load(bundle)
            await change(rig, "unload", lora_name="one")
            assert await rig.link._engine.missing([bundle]) == {}
            result = await ask(rig, bundle)
            assert result.label_logprobs == pytest.approx(rig.expected("one:a page"), abs=1e-4)

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", ["openai vllm", "openai sglang"])
def test_other_weights_under_a_loaded_adapters_name_answer_nobody_until_the_bundles_own_are_back(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:

            async def exchange(path: str) -> None:
                if name == "openai sglang":  # which refuses a name it has
                    await change(rig, "unload", lora_name="one")
                await change(rig, "load", lora_name="one", lora_path=path, load_inplace=True)

            bundle = rig.bundle(adapter={"name": "one", "path": PATH})
            plain = rig.bundle()
            await rig.link.load(bundle)
            await rig.link.load(plain)
            await exchange("/models/newer")
            await until(lambda: bundle not in rig.link.ready)
            with pytest.raises(WorkerAway):
                rig.link.submit(bundle, Given.of_text("a page"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
            assert (await ask(rig, plain)).status == engine_pb2.RESULT_STATUS_OK
            await exchange(PATH)
            await until(lambda: bundle in rig.link.ready)
            assert (await ask(rig, bundle)).status == engine_pb2.RESULT_STATUS_OK

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("openai vllm", f"{MODEL} with adapter 'one' from {PATH}"),
        ("openai sglang completions", f"{MODEL} with adapter 'one' from {PATH}"),
    ],
)
def test_two_adapters_on_one_base_are_named_apart(name: str, says: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            bundle = rig.bundle(adapter={"name": "one", "path": PATH})
            await rig.link.load(bundle)
            assert (await rig.link.identify(bundle)).model == says

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
