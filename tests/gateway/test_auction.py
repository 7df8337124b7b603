"""An exchange and the gateway as real processes, on both fronts: mutations, reflection, outcomes, test traffic."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.rpc.artf import JSON_SERVICE, SERVICE
from gateway.rpc.envoy import is_installed
from protos import artf_pb2, artf_services_pb2_grpc, decide_pb2, rtb_pb2, rtb_pb2_grpc
from tests.gateway.deployment import Deployment
from tests.gateway.rtb.rules import BRAND
from tests.gateway.stories import start


def auction(name: str, title: str, *, test: bool = False) -> artf_pb2.RTBRequest:
    request = artf_pb2.RTBRequest(lifecycle=artf_pb2.LIFECYCLE_PUBLISHER_BID_REQUEST, id=name, tmax=20_000)
    request.bid_request.id = name
    request.bid_request.test = test
    request.bid_request.imp.add(id="1")
    request.bid_request.site.content.title = title
    return request


@pytest.mark.parametrize("front", ["grpcio", "envoy"])
def test_an_exchange_gets_mutations_and_its_verdicts_become_outcomes(front: str, tmp_path: Path) -> None:
    if front == "envoy" and not is_installed():
        pytest.skip("Envoy is not installed here")

    async def story() -> None:
        deployment = Deployment(tmp_path)
        deployment.settings = {"front": front, "mutations": [BRAND]}
        async with deployment:
            split = await start(deployment)
            async with deployment.channel() as channel:
                stub = artf_services_pb2_grpc.RTBExtensionPointStub(channel)
                tested = await stub.GetMutations(auction("t", "label:unsafe a test", test=True), timeout=20)
                assert len(tested.mutations) == 2
                live = await stub.GetMutations(auction("l", "label:unsafe weapons"), timeout=20)
                assert [artf_pb2.Intent.Name(m.intent) for m in live.mutations] == ["ADD_METRICS", "ADD_CIDS"]
                assert live.metadata.model_version == f"generation=1;brand={split.primary}"

                said = rtb_pb2.Feedback(id="l")
                said.verdicts.add(intent=artf_pb2.ADD_CIDS, result=rtb_pb2.Verdict.REJECTED)
                receipt = await rtb_pb2_grpc.RtbServiceStub(channel).ReportFeedback(said, timeout=20)
                assert receipt.recorded == 1
                # The test auction left nothing: the first two records are the live one and its outcome.
                sample, outcome = await deployment.captured(2)
                assert sample.sample.input == decide_pb2.Input(
                    fields={"text": decide_pb2.Value(text="label:unsafe weapons")}
                )
                assert outcome.outcome.decision_id == sample.sample.decision_id
                assert (outcome.outcome.label, outcome.outcome.source) == ("safe", "mutation rejected")

                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GetMutations(artf_pb2.RTBRequest(id="q"), timeout=20)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                await _is_listed(channel)

    asyncio.run(story())


async def _is_listed(channel: grpc.aio.Channel) -> None:
    """A caller without our files finds the services, their messages and their health."""
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="com.iabtechlab.openrtb.v2.BidRequest.Imp"),
    ]
    told = [
        a async for a in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(asked), timeout=20)
    ]
    assert {SERVICE, JSON_SERVICE} <= {service.name for service in told[0].list_services_response.service}
    for answer in told[1:]:
        names = [FileDescriptorProto.FromString(f).name for f in answer.file_descriptor_response.file_descriptor_proto]
        assert names
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
