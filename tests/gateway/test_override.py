"""Testers reach a bundle that callers do not, and leave no trace in what is measured; on both fronts."""

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from gateway.rpc.envoy import is_installed
from gateway.rpc.override import Testers
from gateway.rpc.wire import Call
from protos import decide_pb2, decide_pb2_grpc, oip_pb2, oip_pb2_grpc
from protos.contract.digest import digest_bytes
from tests.authority import Authority
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import run, start

TOKEN = "a token of testers"
TESTER = "spiffe://ours.example/tester"
FROM_CORE = "Internal error from Core"  # what grpc.aio says where it is refused before it has sent its first message


def headers(wanted: str, token: str = TOKEN) -> tuple[tuple[str, str], ...]:
    return (("interlock-override", wanted), ("authorization", f"Bearer {token}"))


async def stream_refusal(
    oip: oip_pb2_grpc.GRPCInferenceServiceStub, metadata: tuple[tuple[str, str], ...]
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in oip.ModelStreamInfer(once([inference()]), metadata=metadata):
            pass
    return refused.value


def inference() -> oip_pb2.ModelInferRequest:
    request = oip_pb2.ModelInferRequest(model_name="brand")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(b"hello")
    return request


async def once(requests: list[oip_pb2.ModelInferRequest]) -> object:
    for request in requests:
        yield request


@pytest.mark.parametrize("front", ["envoy", "grpcio"])
def test_a_tester_meets_the_bundle_named_and_is_counted_and_captured_nowhere(front: str, tmp_path: Path) -> None:
    if front == "envoy" and not is_installed():
        pytest.skip("Envoy is not installed here")

    async def story(deployment: Deployment) -> None:
        deployment.settings |= {"front": front, "override_token_digests": [digest_bytes(TOKEN.encode())]}
        split = await start(deployment)
        candidate = deployment.bundle(seed=7)
        shadowed = replace(split, candidate=candidate, shadow_bp=10_000, salt="second")
        assert (await deployment.control.publish(shadowed)).applied
        async with deployment.channel() as channel:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)
            oip = oip_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="hello"))
            for wanted, bundle in (("candidate", candidate), (candidate, candidate), ("primary", split.primary)):
                answer = await stub.Decide(request, metadata=headers(wanted), timeout=PATIENCE_S)
                assert (answer.arm, answer.bundle_digest) == (decide_pb2.ARM_OVERRIDE, bundle)
                assert answer.label
            batch = decide_pb2.DecideBatchRequest(requests=[request, request])
            answers = (await stub.DecideBatch(batch, metadata=headers("candidate"), timeout=PATIENCE_S)).responses
            assert {answer.bundle_digest for answer in answers} == {candidate}
            told = await oip.ModelInfer(inference(), metadata=headers("candidate"), timeout=PATIENCE_S)
            assert told.parameters["arm"].string_param == "override"
            async for streamed in oip.ModelStreamInfer(once([inference()]), metadata=headers("candidate")):
                assert streamed.infer_response.parameters["bundle_digest"].string_param == candidate
            async for chunk in stub.Generate(
                decide_pb2.GenerateRequest(specialist="brand", input=request.input), metadata=headers("candidate")
            ):
                assert (chunk.arm, chunk.bundle_digest) == (decide_pb2.ARM_OVERRIDE, candidate)

            for metadata in (
                headers("candidate", "another token"),
                (("interlock-override", "candidate"),),
                headers("sha256:" + "0" * 64),
                headers("previous"),
            ):
                for ask in (stub.Decide, oip.ModelInfer):
                    question = request if ask is stub.Decide else inference()
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await ask(question, metadata=metadata, timeout=PATIENCE_S)
                    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                async with asyncio.timeout(PATIENCE_S):
                    while (refusal := await stream_refusal(oip, (*metadata, ENDS_ON_ERROR))).details() == FROM_CORE:
                        pass
                assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED

        organic = await deployment.decide(decision_id="organic")
        assert organic.arm == decide_pb2.ARM_PRIMARY
        records = await deployment.captured(2)
        assert {record.WhichOneof("body") for record in records} == {"sample", "shadow_pair"}
        assert {(r.sample or r.shadow_pair).decision_id for r in records if r.HasField("sample")} == {"organic"}
        async with asyncio.timeout(PATIENCE_S):
            while not (deployment.control.reports and deployment.control.reports[-1].arms):
                await asyncio.sleep(0.02)
        arms = {arm.arm: arm.requests for arm in deployment.control.reports[-1].arms}
        assert arms == {decide_pb2.ARM_PRIMARY: 1}

    run(tmp_path, story)


@pytest.mark.parametrize("front", ["envoy", "grpcio"])
def test_a_tester_is_known_by_its_certificate_and_another_caller_with_one_is_not(front: str, tmp_path: Path) -> None:
    if front == "envoy" and not is_installed():
        pytest.skip("Envoy is not installed here")
    ca = Authority(tmp_path, "ours")
    certificate, key = ca.issue("localhost", x509.DNSName("localhost"))
    tester = ca.issue("tester", x509.UniformResourceIdentifier(TESTER))
    other = ca.issue("other", x509.UniformResourceIdentifier("spiffe://bidder.example/edge"))

    def callers(named: tuple[Path, Path]) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(ca.file.read_bytes(), named[1].read_bytes(), named[0].read_bytes())

    async def story(deployment: Deployment) -> None:
        tls = {"tls_certificate": str(certificate), "tls_key": str(key), "tls_client_ca": str(ca.file)}
        deployment.settings |= {"front": front, "override_identities": [TESTER], **tls}
        deployment.credentials = callers(tester)
        split = await start(deployment)
        candidate = deployment.bundle(seed=7)
        assert (await deployment.control.publish(replace(split, candidate=candidate, salt="second"))).applied

        async def ask() -> decide_pb2.DecideResponse:
            request = decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text="hello"))
            wanted = (("interlock-override", "candidate"),)
            async with deployment.channel() as channel:
                stub = decide_pb2_grpc.DecisionServiceStub(channel)
                return await stub.Decide(request, metadata=wanted, timeout=PATIENCE_S)

        answer = await ask()
        assert (answer.arm, answer.bundle_digest) == (decide_pb2.ARM_OVERRIDE, candidate)
        deployment.credentials = callers(other)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await deployment.decide()).arm == decide_pb2.ARM_PRIMARY

    run(tmp_path, story)


ENDS_ON_ERROR = ("triton_grpc_error", "true")


def test_nobody_may_override_unless_the_settings_say_who() -> None:
    listed = Testers(("spiffe://ours/tester",), (digest_bytes(b"right"),))
    named = Call("/x", identity="spiffe://ours/tester")
    assert listed.may(named)
    assert not Testers().may(named)
    assert not listed.may(Call("/x", identity="spiffe://ours/other"))
    for shown, is_allowed in (("Bearer right", True), ("Bearer wrong", False), ("right", False), ("Bearer ", False)):
        assert listed.may(Call("/x", {"authorization": shown})) == is_allowed
    assert not Testers().may(Call("/x", {"authorization": "Bearer "}))
    assert not Testers(("",)).may(Call("/x"))
