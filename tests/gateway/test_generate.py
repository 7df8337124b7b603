"""Text from a specialist whose engine only decides."""

import json
from pathlib import Path

import grpc
import grpc.aio
import pytest

from gateway.rpc.envoy import is_installed
from protos import decide_pb2, decide_pb2_grpc
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import first_split, run
from tests.tasks import TASK

MODEL = {
    "version": 1,
    "intercept": [0.0, 0.0],
    "fields": [
        {
            "name": "text",
            "kind": "terms",
            "analyser": "words",
            "terms": ["weapon"],
            "rarity": [1.0],
            "weights": [[-2.0, 2.0]],
            "mean": [0.0, 0.0],
        }
    ],
}


@pytest.mark.parametrize("front", ["envoy", "envoy-tcp", "grpcio", "direct"])
def test_an_engine_that_only_decides_says_so_when_asked_for_text(front: str, tmp_path: Path) -> None:
    if front.startswith("envoy") and not is_installed():
        pytest.skip("Envoy is not installed here")

    async def story(deployment: Deployment) -> None:
        deployment.settings["front"] = front
        deployment.start_worker()
        await deployment.start_gateway()
        bundle = deployment.store.add(
            task=TASK,
            engine={"backend": "additive"},
            contents={"additive.json": json.dumps(MODEL).encode()},
            base={},
            lineage={"author": "trainer"},
        ).digest
        split = first_split(bundle)
        deployment.control.approve(split, bundle)
        acknowledgement = await deployment.control.publish(split)
        assert acknowledgement.applied, acknowledgement.message
        await deployment.until_serving()
        async with deployment.channel() as channel:
            request = decide_pb2.GenerateRequest(specialist="brand", input=decide_pb2.Input(text="a weapon"))
            stream = decide_pb2_grpc.DecisionServiceStub(channel).Generate(request, timeout=PATIENCE_S)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream.read()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "'brand' cannot generate text" in (refused.value.details() or "")
        assert (await deployment.decide("a weapon")).label == "unsafe"

    run(tmp_path, story)
