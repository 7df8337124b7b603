"""What TensorRT-LLM's servers do and do not do, by their sources: over HTTP and gRPC."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from smg_grpc_proto import trtllm_service_pb2_grpc

from gateway.serving.ports import BundleRefused
from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.probe import Probe, probes_json
from tests.batteries.engines import CASES, PATIENCE_S, TOKENIZER, Rig, Stop, remote
from tests.gateway.engines.fake_grpc import LONGEST, MAX_TOP, FakeTrtllm, serve
from tests.gateway.engines.fake_model import FakeModel

MINUTE_US = 60_000_000
OK = engine_pb2.RESULT_STATUS_OK


async def ask(rig: Rig, bundle: str, text: str = "a page") -> engine_pb2.Result:
    _, future = rig.link.submit(bundle, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)
    return await future


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def test_gateways_that_share_a_server_never_give_two_requests_the_same_id(tmp_path: Path) -> None:
    """The server finds a request by its id alone: one that leaves would abort the other's."""

    async def story() -> None:
        async with remote("trtllm-grpc", tmp_path / "one") as one:

            async def same(model: FakeModel, port: int) -> tuple[int, Stop]:
                async def stays() -> None:
                    return

                return one.port, stays

            case = replace(CASES["trtllm-grpc"], start=same)
            async with remote("trtllm-grpc", tmp_path / "two", case=case) as two:
                for rig in (one, two):
                    plain = rig.bundle()
                    await rig.link.load(plain)
                    raw = await ask(rig, plain)
                    probes = probes_json([Probe("a page", tuple(raw.probabilities), 0.001)])
                    await rig.link.load(rig.bundle({**TOKENIZER, "probes.json": probes}))
                    _ = [chunk async for chunk in rig.link.generate(plain, Given.of_text("a page"), MINUTE_US, 5)]
        ids = [request.request_id for request in one.model.requests]  # type: ignore[attr-defined]
        assert len(ids) >= 6
        assert len(set(ids)) == len(ids)

    run(story)


async def unguided(model: FakeModel, port: int) -> tuple[int, Stop]:
    servicer = FakeTrtllm(model, guides=False)
    server, found = await serve(trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server, servicer, port)
    return found, lambda: server.stop(0)


UNGUIDED = {"trtllm-grpc": unguided}


@pytest.mark.parametrize("name", UNGUIDED)
def test_the_longest_prompt_is_what_the_server_answers_and_not_what_it_says(name: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            fits = replace(rig.case.task, max_tokens=LONGEST)
            await rig.link.load(rig.bundle(task=fits))
            with pytest.raises(BundleRefused, match=f"prompt of {LONGEST + 1} tokens.*max_num_tokens"):
                await rig.link.load(rig.bundle(task=replace(fits, max_tokens=LONGEST + 1)))

    run(story)


@pytest.mark.parametrize("name", UNGUIDED)
def test_more_best_tokens_than_the_server_tells_are_refused_when_the_bundle_is_loaded(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with remote(name, tmp_path) as rig:
            await rig.link.load(rig.bundle(top_logprobs=MAX_TOP))
            with pytest.raises(BundleRefused, match=f"less than or equal to {MAX_TOP}"):
                await rig.link.load(rig.bundle(top_logprobs=MAX_TOP + 1))

    run(story)


@pytest.mark.parametrize("name", UNGUIDED)
def test_a_server_without_a_guided_decoding_backend_is_not_relied_on_to_keep_constraints(
    name: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with remote(name, tmp_path, case=replace(CASES[name], start=UNGUIDED[name])) as rig:
            bundle = await rig.loaded()
            found = rig.link.capabilities(bundle)
            assert found is not None
            assert (found.can_generate, found.constraints) == (True, ())
        async with remote(name, tmp_path) as rig:
            found = rig.link.capabilities(await rig.loaded())
            assert found is not None
            assert {"regex", "json_schema"} <= set(found.constraints)

    run(story)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("please end badly", "finish_reason is 'error'"),
        ("please time out", "finish_reason is ''"),
        ("please be simple", "best few are missing"),
    ],
)
def test_an_answer_that_is_none_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("trtllm-grpc", tmp_path) as rig:
            result = await ask(rig, await rig.loaded(), text)
            assert result.status == engine_pb2.RESULT_STATUS_ENGINE_ERROR
            assert said in result.message

    run(story)


def test_a_token_of_which_the_server_tells_nothing_does_not_count_as_certain(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("trtllm-grpc", tmp_path) as rig:
            text = "please sample another"
            result = await ask(rig, await rig.loaded(), text)
            assert result.status == OK, result.message
            assert result.label_logprobs == pytest.approx(rig.expected(text), abs=1e-4)
            bundle = rig.bundle(verbalizers={"safe": " safe", "unsafe": "z"}, top_logprobs=2)
            await rig.link.load(bundle)
            best = rig.model.best(text, 2).values()
            outside = min(*best, math.log(1 - sum(map(math.exp, best))))
            result = await ask(rig, bundle, text)
            assert result.bounded
            assert result.label_logprobs[1] == pytest.approx(outside, abs=1e-4)

    run(story)
