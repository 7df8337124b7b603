"""What SGLang tells of itself and does not do, as version 0.5.23 was heard to."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from smg_grpc_proto import sglang_scheduler_pb2_grpc
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace

from gateway.engines.serving import prepare
from gateway.serving.ports import BundleRefused
from protos import engine_pb2
from protos.contract.given import Given
from tests.batteries.engines import CASES, PATIENCE_S, Rig, Stop, make_engine, remote
from tests.gateway.engines.fake_grpc import LONGEST, FakeSglang, serve
from tests.gateway.engines.fake_model import FakeModel, tokenizer_json

MINUTE_US = 60_000_000


async def ask(rig: Rig, bundle: str, text: str) -> engine_pb2.Result:
    return await rig.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]


async def without_adapters(model: FakeModel, port: int) -> tuple[int, Stop]:
    servicer = FakeSglang(model, loads_adapters=False)
    server, found = await serve(sglang_scheduler_pb2_grpc.add_SglangSchedulerServicer_to_server, servicer, port)
    return found, lambda: server.stop(0)


@pytest.mark.parametrize("name", ["sglang-grpc", "openai sglang", "openai sglang completions"])
def test_the_longest_prompt_is_what_the_scheduler_takes_and_not_what_its_cache_or_context_hold(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            fits = replace(rig.case.task, max_tokens=LONGEST)
            await rig.link.load(rig.bundle(task=fits))
            with pytest.raises(BundleRefused, match=f"reads {LONGEST} tokens, expected {LONGEST + 1}"):
                await rig.link.load(rig.bundle(task=replace(fits, max_tokens=LONGEST + 1)))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_a_scheduler_that_loads_no_adapters_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        case = replace(CASES["sglang-grpc"], start=without_adapters)
        async with remote("sglang-grpc", tmp_path, case=case) as rig:
            await rig.link.load(rig.bundle())
            with pytest.raises(BundleRefused, match="loads no adapters over gRPC"):
                await rig.link.load(rig.bundle(adapter={"name": "one", "path": "/models/adapter"}))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("name", ["sglang-grpc", "openai sglang"])
def test_a_full_queue_is_no_server_that_is_away(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            bundle = rig.bundle()
            await rig.link.load(bundle)
            text = Given.of_text("please be busy")
            result = await rig.link.submit(bundle, text, MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]
            assert result.status == engine_pb2.RESULT_STATUS_OVERLOADED and "queue is full" in result.message

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("method", ["score", "completions"])
def test_a_prompt_of_no_tokens_is_refused_and_no_part_of_a_batch_which_it_would_end_the_server_by(
    method: str, tmp_path: Path
) -> None:
    async def story() -> None:
        name = {"score": "openai sglang gathered", "completions": "openai sglang completions gathered"}[method]
        tokenizer = Tokenizer.from_str(tokenizer_json())
        tokenizer.normalizer = Replace("\u200b", "")  # a space of no width
        async with remote(name, tmp_path) as rig:
            bundle = rig.bundle(contents={"tokenizer.json": tokenizer.to_str().encode()})
            await rig.link.load(bundle)
            found = await asyncio.gather(*[ask(rig, bundle, text) for text in ("a page", "\u200b", "page 2")])
            statuses = [engine_pb2.RESULT_STATUS_OK, engine_pb2.RESULT_STATUS_BAD_INPUT, engine_pb2.RESULT_STATUS_OK]
            assert [result.status for result in found] == statuses

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_what_was_aborted_at_the_server_is_no_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai sglang", tmp_path) as rig:
            result = await ask(rig, await rig.loaded(), "please abort")
            assert result.status == engine_pb2.RESULT_STATUS_ENGINE_ERROR and "'abort'" in result.message

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_adapters_are_said_to_be_each_requests_own_where_labels_are_told_exactly(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai sglang", tmp_path) as rig:
            engine = make_engine("openai-http", rig.port)
            served, _ = prepare(rig.store.load(rig.bundle()))
            found = await engine.load(served)
            await engine.close()
            assert (found.label_logprobs, found.lora) == ("exact", "per_request")

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_a_classifier_that_takes_one_text_of_tokens_is_asked_for_one_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        case = replace(CASES["openai sglang classify"], max_batch=16)
        async with remote("openai sglang classify", tmp_path, case=case) as rig:
            bundle = await rig.loaded()
            asked = [
                rig.link.submit(bundle, Given.of_text("x" * n), MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]
                for n in range(1, 20)
            ]
            results = await asyncio.gather(*asked)
            assert {result.status for result in results} == {engine_pb2.RESULT_STATUS_OK}
            assert len(rig.model.requests) == len(results)  # none was refused first

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
