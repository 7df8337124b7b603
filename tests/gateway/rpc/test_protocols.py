"""Other people's clients get right answers, and wrong tensors a status that names them."""

import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway import errors
from gateway.rpc.status import CODES
from protos import decide_pb2, decide_pb2_grpc, oip_pb2, oip_pb2_grpc
from tests.gateway.deployment import Deployment
from tests.gateway.stories import run, start


def tensor(**changes: Any) -> oip_pb2.ModelInferRequest:
    raw = changes.pop("raw", [struct.pack("<I", 2) + b"hi"])
    contents = changes.pop("contents", None)
    outputs = changes.pop("outputs", [])
    request = oip_pb2.ModelInferRequest(model_name="brand", raw_input_contents=raw)
    request.inputs.add(**{"name": "text", "datatype": "BYTES", "shape": [1], **changes})
    if contents is not None:
        request.inputs[0].contents.bytes_contents.extend(contents)
    for name in outputs:
        request.outputs.add(name=name)
    return request


WRONG = {
    "name": (tensor(name="texts"), "'texts' is unknown"),
    "dtype": (tensor(datatype="FP32"), "datatype is 'FP32', expected BYTES"),
    "shape": (tensor(shape=[1, 2]), "shape is [1, 2]"),
    "no rows": (tensor(shape=[0], raw=[b""]), "shape is [0]"),
    "too many rows": (tensor(shape=[2**40]), "1 to 64 rows"),
    "fewer elements than the shape says": (tensor(shape=[2]), "1 elements, expected 2"),
    "length past the end": (tensor(raw=[struct.pack("<I", 9) + b"hi"]), "past the end"),
    "cut length": (tensor(raw=[b"\x01\x00"]), "inside a length"),
    "not UTF-8": (tensor(raw=[struct.pack("<I", 1) + b"\xff"]), "not UTF-8"),
    "both contents": (tensor(contents=[b"hi"]), "beside raw_input_contents"),
    "raw entries": (tensor(raw=[b"", b""]), "2 entries, expected 1"),
    "unknown output": (tensor(outputs=["logits"]), "'logits' is unknown"),
    "no input": (oip_pb2.ModelInferRequest(model_name="brand"), "expected every input once"),
}


def test_a_wrong_tensor_is_refused_by_name(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        async with deployment.channel() as channel:
            stub = oip_pb2_grpc.GRPCInferenceServiceStub(channel)
            for case, (request, words) in WRONG.items():
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.ModelInfer(request)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, case
                assert words in (refused.value.details() or ""), (case, refused.value.details())
            typed = await stub.ModelInfer(tensor(raw=[], contents=[b"label:unsafe"]))
            assert typed.raw_output_contents[0] == struct.pack("<I", 6) + b"unsafe"
            assert typed.parameters["plan_generation"].int64_param == 1
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.ModelReady(oip_pb2.ModelReadyRequest(name="nobody"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

    run(tmp_path, story)


def test_health_reflection_batches_and_generation(tmp_path: Path) -> None:
    async def story(deployment: Deployment) -> None:
        await start(deployment)
        async with deployment.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="interlock.v1.DecisionService"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
            listed = [service.name async for said in call for service in said.list_services_response.service]
            assert {"interlock.v1.DecisionService", "inference.GRPCInferenceService"} <= set(listed)

            stub = decide_pb2_grpc.DecisionServiceStub(channel)
            texts = [f"label:{label} page" for label in ("safe", "unsafe", "safe")]
            one = [decide_pb2.DecideRequest(specialist="brand", input=decide_pb2.Input(text=t)) for t in texts]
            batch = await stub.DecideBatch(decide_pb2.DecideBatchRequest(requests=one))
            assert [r.label for r in batch.responses] == ["safe", "unsafe", "safe"]
            one[1].input.text = ""
            with pytest.raises(grpc.aio.AioRpcError) as bad:
                await stub.DecideBatch(decide_pb2.DecideBatchRequest(requests=one))
            assert "requests[1]" in (bad.value.details() or "")

            wanted = decide_pb2.GenerateRequest(
                specialist="brand", input=decide_pb2.Input(text="one two"), max_tokens=3
            )
            chunks = [chunk async for chunk in stub.Generate(wanted)]
            again = [chunk async for chunk in stub.Generate(wanted)]
            assert len("".join(chunk.text for chunk in chunks).split()) == 3
            assert [chunk.text for chunk in again] == [chunk.text for chunk in chunks]
            assert [chunk.last for chunk in chunks].count(True) == 1 and chunks[-1].last

            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await channel.unary_unary("/interlock.v1.DecisionService/Nothing")(b"")
            assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(tmp_path, story)


def test_every_error_has_its_status() -> None:
    kinds = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.GatewayError)}
    assert kinds - {errors.GatewayError} == set(CODES)
