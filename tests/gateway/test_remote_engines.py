"""A gateway whose engines are elsewhere: declared in its settings, chosen by each bundle's manifest."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import sglang_scheduler_pb2_grpc, trtllm_service_pb2_grpc

from gateway.settings import GatewaySettings
from protos import decide_pb2, decide_pb2_grpc, engine_pb2
from protos.contract.fields import FieldInvalid
from protos.contract.frames import PROTOCOL, FrameDecoder, encode
from protos.contract.plan import Split
from tests.batteries.engines import TOKEN_TASK, TOKENIZER
from tests.gateway.deployment import Deployment
from tests.gateway.engines.fake_grpc import FakeSglang, FakeTrtllm, serve
from tests.gateway.engines.fake_model import ANSWER, MODEL, FakeModel
from tests.gateway.stories import first_split, run


@contextlib.asynccontextmanager
async def servers(deployment: Deployment, vocabulary: int | None = None) -> AsyncIterator[FakeModel]:
    """Bring up one server of each kind and a gateway that knows both, beside a worker."""
    model = FakeModel()
    sglang, first = await serve(sglang_scheduler_pb2_grpc.add_SglangSchedulerServicer_to_server, FakeSglang(model))
    trtllm, second = await serve(
        trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server, FakeTrtllm(model, vocabulary)
    )
    deployment.settings["engines"] = [
        {"name": "near", "kind": "sglang-grpc", "address": f"127.0.0.1:{first}", "models": [MODEL]},
        {"name": "far", "kind": "trtllm-grpc", "address": f"127.0.0.1:{second}"},
    ]
    deployment.start_worker()
    await deployment.start_gateway()
    try:
        yield model
    finally:
        await asyncio.gather(sglang.stop(0), trtllm.stop(0))


def bundle(deployment: Deployment, backend: str, exactness: str = "exact", **engine: Any) -> str:
    return deployment.store.add(
        task=replace(TOKEN_TASK, label_logprobs=exactness, deadline_us=2_000_000),
        engine={"backend": backend, "model": MODEL, **engine},
        contents=TOKENIZER,
        base={},
        lineage={"author": "trainer"},
    ).digest


async def publish(deployment: Deployment, split: Split) -> Any:
    deployment.control.approve(split, split.primary)
    if split.candidate is not None:
        deployment.control.approve(split, split.candidate)
    return await deployment.control.publish(split)


def test_a_remote_engine_answers_and_a_canary_is_on_another_kind_of_engine(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with servers(deployment) as model:
            primary = bundle(deployment, "sglang-grpc", "topk")
            candidate = bundle(deployment, "trtllm-grpc", "topk")
            said = await publish(deployment, first_split(primary))
            assert said.applied, said.message
            await deployment.until_serving()
            answer = await deployment.decide("a page")
            assert (answer.bundle_digest, answer.fallback.used) == (primary, False)
            expected = model.label_probabilities("a page")
            assert [p.probability for p in answer.probabilities] == pytest.approx(expected, abs=1e-4)

            said = await publish(deployment, Split("brand", primary, candidate, None, 10_000, 0, 0, 0, "second"))
            assert said.applied, said.message
            answer = await deployment.decide("a page")
            assert (answer.bundle_digest, answer.arm) == (candidate, decide_pb2.ARM_CANARY)
            assert [p.probability for p in answer.probabilities] == pytest.approx(expected, abs=1e-4)

            answer = await deployment.decide("please fail")
            assert answer.fallback.reason == decide_pb2.FALLBACK_REASON_ENGINE_ERROR
            with pytest.raises(grpc.aio.AioRpcError, match="tokens, expected at most 256"):
                await deployment.decide("y" * 300)

    run(tmp_path, story)


def test_text_is_constrained_from_the_caller_to_the_engine(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with servers(deployment):
            said = await publish(deployment, first_split(bundle(deployment, "trtllm-grpc", "topk")))
            assert said.applied, said.message
            await deployment.until_serving()

            async def write(constraint: decide_pb2.Constraint | None) -> str:
                request = decide_pb2.GenerateRequest(
                    specialist="brand", input=decide_pb2.Input(text="a page"), max_tokens=100, constraint=constraint
                )
                async with deployment.channel() as channel:
                    stream = decide_pb2_grpc.DecisionServiceStub(channel).Generate(request, timeout=10)
                    return "".join([chunk.text async for chunk in stream])

            assert await write(None) == ANSWER
            assert await write(decide_pb2.Constraint(regex="yes|no")) == " kept yes|no"
            with pytest.raises(
                grpc.aio.AioRpcError, match="constraint is choice, expected json_schema or regex"
            ) as failed:
                await write(decide_pb2.Constraint(choice=decide_pb2.Choice(texts=["yes"])))
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(tmp_path, story)


def test_a_plan_is_refused_whose_engine_cannot_answer(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with servers(deployment, vocabulary=100):
            refused = {
                "no engine of kind 'sglang-grpc' with model 'tiny/other'": bundle(
                    deployment, "sglang-grpc", model="tiny/other"
                ),
                "no engine of kind 'oip' with model 'tiny/decoder'": bundle(deployment, "oip"),
                "outside the server's vocabulary of 100": bundle(deployment, "trtllm-grpc", "topk"),
            }
            for reason, digest in refused.items():
                said = await publish(deployment, first_split(digest))
                assert (said.applied, said.reason) == (False, "bundle_invalid")
                assert reason in said.message

    run(tmp_path, story)


def test_a_plan_is_refused_whose_engine_turns_out_to_tell_less_than_its_bundle_promised(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A worker that loads anything and then says that it knows only its best few labels."""
        writer.write(encode(engine_pb2.Frame(hello=engine_pb2.Hello(worker_id="w", protocol=PROTOCOL))))
        decoder = FrameDecoder()
        while data := await reader.read(65536):
            for frame in decoder.feed(data):
                if frame.HasField("load"):
                    loaded = engine_pb2.Loaded(id=frame.load.id, bundle_digest=frame.load.bundle_digest, ok=True)
                    loaded.capabilities.label_logprobs = "topk"
                    writer.write(encode(engine_pb2.Frame(loaded=loaded)))
        writer.close()

    async def story(deployment: Deployment) -> None:
        async with await asyncio.start_unix_server(answer, tmp_path / "worker.sock"):
            await deployment.start_gateway()
            said = await publish(deployment, first_split(deployment.bundle()))
            assert (said.applied, said.reason) == (False, "engine_inexact"), said.message
            assert "gives topk label probabilities, expected exact" in said.message
            deployment.kill("gateway")  # or the connection would keep the server open

    run(tmp_path, story)


def test_a_server_that_comes_later_is_waited_for_and_then_serves(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        async with servers(deployment) as model:
            model.is_up = False
            digest = bundle(deployment, "sglang-grpc")
            publishing = asyncio.create_task(publish(deployment, first_split(digest)))
            await asyncio.sleep(0)
            model.is_up = True
            said = await publishing
            assert said.applied, said.message
            assert not (await deployment.decide("a page")).fallback.used

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, r"engines\[0\]\.kind is 'magic'"),
        ({"address": "http://127.0.0.1:1"}, r"address is 'http://127.0.0.1:1', expected HOST:PORT"),
        ({"kind": "openai-http"}, "expected an http or https URL"),
        ({"surprise": 1}, "unknown fields: surprise"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"credentials": "missing"}, "credentials .*missing cannot be read"),
        ({"credentials": "open"}, "readable by others"),
        ({"credentials": "empty"}, "has no token"),
    ],
)
def test_wrong_settings_are_refused_naming_them(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from gateway.engines.settings import remote_links
    from protos.contract.bundle import BundleStore

    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "empty").write_text(" ")
    engine = {"name": "near", "kind": "sglang-grpc", "address": "127.0.0.1:1"} | change
    paths = ("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key")
    value = {"deployment": "test", "worker_sockets": [], "engines": [engine], **dict.fromkeys(paths, "x")}
    with pytest.raises(FieldInvalid, match=message):
        settings = GatewaySettings.from_json(value, tmp_path)
        remote_links(settings.engines, BundleStore(tmp_path))


def test_two_engines_of_one_name_are_refused(tmp_path: Path) -> None:
    engine = {"name": "near", "kind": "sglang-grpc", "address": "127.0.0.1:1"}
    paths = ("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key")
    value = {"deployment": "test", "worker_sockets": [], "engines": [engine, engine], **dict.fromkeys(paths, "x")}
    with pytest.raises(FieldInvalid, match="each name once"):
        GatewaySettings.from_json(value, tmp_path)
