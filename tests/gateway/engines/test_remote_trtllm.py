"""What TensorRT-LLM's servers do and do not do, by their sources: over HTTP and gRPC."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from smg_grpc_proto import trtllm_service_pb2_grpc

from gateway.domain.capabilities import Constraint
from gateway.engines.openai_settings import constrained
from gateway.engines.ports import Broken, EngineProblem, Forgotten, InputRefused, Served, Unreachable
from gateway.engines.spelling import spellings
from gateway.engines.trtllm_http import cause_of
from gateway.serving.ports import BundleRefused, GenerationFailed
from protos import engine_pb2
from protos.contract.given import Given
from protos.contract.probe import Probe, probes_json
from tests.batteries.engines import CASES, PATIENCE_S, TOKENIZER, Rig, Stop, http, remote
from tests.gateway.engines.fake_grpc import LONGEST, MAX_TOP, FakeTrtllm, serve
from tests.gateway.engines.fake_model import FakeModel
from tests.tasks import TASK

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


UNGUIDED = {"trtllm-grpc": unguided, "openai trtllm-serve": http("trtllm-serve", is_bare=True)}
ADAPTER = {"name": "one", "path": "/models/one"}


@pytest.mark.parametrize("name", [*UNGUIDED, "openai trtllm-serve embeddings"])
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
            found = rig.link.capabilities(await rig.loaded())
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


def test_an_adapter_of_which_the_server_takes_no_notice_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        name = "openai trtllm-serve"
        async with remote(name, tmp_path, case=replace(CASES[name], start=UNGUIDED[name])) as rig:
            await rig.link.load(rig.bundle())
            with pytest.raises(BundleRefused, match="with the adapter as without it, expected it to run with enable_l"):
                await rig.link.load(rig.bundle(adapter=ADAPTER))

    run(story)


def test_an_adapter_that_the_server_does_not_find_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai trtllm-serve", tmp_path) as rig:
            with pytest.raises(BundleRefused, match=r"lora_path \(/missing/one\) does not exist"):
                await rig.link.load(rig.bundle(adapter={"name": "one", "path": "/missing/one"}))

    run(story)


def test_two_adapters_never_have_one_number(tmp_path: Path) -> None:
    """The server knows them by it alone, and keeps the first."""

    async def story() -> None:
        async with remote("openai trtllm-serve", tmp_path) as rig:
            one, two = rig.bundle(adapter=ADAPTER), rig.bundle(adapter={"name": "two", "path": "/models/two"})
            for bundle, text in ((one, "one:a page"), (two, "two:a page")):
                await rig.link.load(bundle)
                result = await ask(rig, bundle)
                assert result.label_logprobs == pytest.approx(rig.expected(text), abs=1e-4)
            await rig.link.load(rig.bundle(adapter={"name": "three", "path": "/models/three", "id": 3}))
            with pytest.raises(BundleRefused, match="adapter.id 3 is that of '/models/three' here"):
                await rig.link.load(rig.bundle(adapter={"name": "four", "path": "/models/four", "id": 3}))

    run(story)


def test_the_servers_own_failure_is_not_the_callers_though_both_are_a_400(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai trtllm-serve", tmp_path) as rig:
            bundle = await rig.loaded()
            failed, refused = await ask(rig, bundle, "please fail"), await ask(rig, bundle, "please refuse")
            assert (failed.status, refused.status) == (
                engine_pb2.RESULT_STATUS_ENGINE_ERROR,
                engine_pb2.RESULT_STATUS_BAD_INPUT,
            )
            with pytest.raises(GenerationFailed) as caught:
                _ = [chunk async for chunk in rig.link.generate(bundle, Given.of_text("please fail"), MINUTE_US, 5)]
            assert type(caught.value) is GenerationFailed

    run(story)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("LLM is shutting down", Unreachable),
        ("Failed to load LoRA adapter: [Errno 2]", Forgotten),
        ("`default_max_tokens` (-3) must be greater than 0", InputRefused),
        ("token_ids and logprobs have different lengths", Broken),
    ],
)
def test_a_400_is_told_apart_by_what_the_server_says(said: str, kind: type[EngineProblem]) -> None:
    assert type(cause_of(InputRefused(f"/v1/completions answers 400: {said}"))) is kind


def test_a_text_that_the_server_breaks_off_is_not_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with remote("openai trtllm-serve", tmp_path) as rig:
            bundle = await rig.loaded()
            with pytest.raises(GenerationFailed, match="finish_reason is 'cancelled'"):
                async for _ in rig.link.generate(bundle, Given.of_text("please be cancelled"), MINUTE_US, 20):
                    pass

    run(story)


def test_a_label_that_is_written_like_another_token_is_refused_where_tokens_are_told_by_text() -> None:
    written = {0: "safe", 1: "unsafe", 2: "safe", 3: "x"}

    def served(*ids: int) -> Served:
        answers = tuple(f" {written[id]}" for id in ids)
        decode = lambda found: written[found[0]]  # noqa: E731
        return Served("one", TASK, {}, answers, ids, None, decode, vocabulary=4)

    assert spellings(served(1, 3)) == {" unsafe": 1, "unsafe": 1, " x": 3, "x": 3}
    with pytest.raises(BundleRefused, match="tokens 0 and 2 are both told as 'safe'"):
        spellings(served(0, 1))


def test_a_schema_goes_by_the_wire_as_it_is_whatever_its_fields_are_called() -> None:
    schema = {"type": "object", "schema": {"type": "string"}}
    body = constrained("trtllm-serve", Constraint("json_schema", json.dumps(schema)))
    assert body == {"response_format": {"type": "json", "schema": schema}}
