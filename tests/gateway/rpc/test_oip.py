"""What the Open Inference Protocol says about specialists agrees with itself and with what happened."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from gateway.errors import PromptRejected, UnknownSpecialist
from gateway.rpc.health import HealthState
from gateway.rpc.methods import build_methods
from gateway.rpc.oip import InferenceService
from gateway.rpc.oip_statistics import model_statistics
from gateway.rpc.wire import Call, Method
from gateway.serving.statistics import SpecialistStatistics
from protos import model_config_pb2, oip_pb2
from tests.gateway.rpc.fake import FakeGateway
from tests.gateway.rpc.test_oip_tensors import FORM

SERVICE = "/inference.GRPCInferenceService/"


def table(gateway: FakeGateway) -> dict[str, Method]:
    return {method.path: method for method in build_methods(gateway, HealthState(), version="9.9")}


def ask(name: str, request: Message, gateway: FakeGateway | None = None) -> Any:
    """Call one unary method on bytes, as a front does."""
    handler = cast(Any, table(gateway or FakeGateway())[SERVICE + name].handler)
    payload = asyncio.run(handler(Call(SERVICE + name), request.SerializeToString()))
    return getattr(oip_pb2, f"{name}Response").FromString(payload)


def test_configuration_and_metadata_describe_the_same_tensors() -> None:
    gateway = FakeGateway(served=FORM)
    config = ask("ModelConfig", oip_pb2.ModelConfigRequest(name="brand"), gateway).config
    metadata = ask("ModelMetadata", oip_pb2.ModelMetadataRequest(name="brand"), gateway)
    assert config.max_batch_size == 64
    # With a batch size above 0 Triton's perf_analyzer drops the first dimension of every shape.
    for described, configured in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [tensor.name for tensor in described] == [tensor.name for tensor in configured]
        for tensor, same in zip(described, configured, strict=True):
            assert tensor.shape[0] == -1
            assert list(tensor.shape[1:]) == list(same.dims)
            name = model_config_pb2.DataType.Name(same.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
            assert name == tensor.datatype
    assert {tensor.name: tensor.optional for tensor in config.input} == {
        "title": False,
        "price": False,
        "bids": True,
        "known": True,
    }
    assert not config.model_transaction_policy.decoupled
    assert metadata.versions == ["1"]


@pytest.mark.parametrize("name", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_an_unknown_model_or_version_is_named(name: str) -> None:
    kind = getattr(oip_pb2, f"{name}Request")
    with pytest.raises(UnknownSpecialist, match="'nobody'"):
        ask(name, kind(name="nobody"))
    with pytest.raises(UnknownSpecialist, match="version '2'"):
        ask(name, kind(name="brand", version="2"))
    ask(name, kind(name="brand", version="1"))


def test_readiness_is_an_answer_and_no_error() -> None:
    gateway = FakeGateway(is_up=False)
    assert not ask("ModelReady", oip_pb2.ModelReadyRequest(name="brand"), gateway).ready
    assert not ask("ServerReady", oip_pb2.ServerReadyRequest(), gateway).ready
    assert ask("ServerLive", oip_pb2.ServerLiveRequest(), gateway).live


def test_the_index_lists_what_is_served_and_why_it_is_not_ready() -> None:
    def index(gateway: FakeGateway, **wanted: Any) -> list[tuple[str, ...]]:
        found = ask("RepositoryIndex", oip_pb2.RepositoryIndexRequest(**wanted), gateway)
        return [(model.name, model.version, model.state, model.reason) for model in found.models]

    assert index(FakeGateway()) == [("brand", "1", "READY", "")]
    down = FakeGateway(is_up=False)
    assert index(down) == [("brand", "1", "UNAVAILABLE", "no engine is ready")]
    assert index(down, ready=True) == []
    with pytest.raises(PromptRejected, match="repository_name is 'other'"):
        index(down, repository_name="other")


def test_statistics_count_executions_by_their_share() -> None:
    counted = SpecialistStatistics()
    for _ in range(3):
        counted.executed(10, 100, 1)
    for _ in range(8):  # two batches of four
        counted.executed(20, 200, 4)
    for _ in range(12):  # eleven by an engine, one by the fallback
        counted.ended(500, is_answered=True)
    counted.ended(70, is_answered=False)
    counted.last_unix_s = 1_700_000_000.25
    told = model_statistics("brand", counted)
    assert (told.name, told.version, told.last_inference) == ("brand", "1", 1_700_000_000_250)
    assert (told.inference_count, told.execution_count) == (12, 5)
    stats = told.inference_stats
    assert (stats.success.count, stats.success.ns) == (12, 6_000_000)
    assert (stats.fail.count, stats.fail.ns) == (1, 70_000)
    assert (stats.queue.count, stats.queue.ns) == (11, 190_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (11, 1_900_000)
    assert [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in told.batch_stats] == [
        (1, 3, 300_000),
        (4, 2, 400_000),
    ]
    assert not stats.HasField("compute_input")  # not measured is not zero


def test_statistics_of_every_specialist_are_given_when_none_is_named() -> None:
    gateway = FakeGateway()
    gateway.counted.of("brand").ended(5, is_answered=True)
    told = ask("ModelStatistics", oip_pb2.ModelStatisticsRequest(), gateway)
    assert [(stats.name, stats.inference_count) for stats in told.model_stats] == [("brand", 1)]


def test_extensions_are_claimed_only_where_their_methods_are_served() -> None:
    metadata = ask("ServerMetadata", oip_pb2.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("interlock", "9.9")
    assert set(metadata.extensions) == {"classification", "parameters", "model_configuration", "statistics"}
    paths = table(FakeGateway())
    assert {SERVICE + "ModelConfig", SERVICE + "ModelStatistics"} <= set(paths)


def test_the_method_table_is_what_the_protocol_file_declares() -> None:
    declared = oip_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    served = {method.path for method in InferenceService(FakeGateway(), "1").methods()}
    assert served == {SERVICE + method.name for method in declared.methods}
    assert not [path for path in served if "Load" in path or "SharedMemory" in path or "Trace" in path]


def test_reflection_knows_the_messages_of_the_extensions() -> None:
    symbols = ["inference.ModelStreamInferResponse", "inference.ModelConfig", "inference.ModelStatistics"]

    async def questions() -> AsyncIterator[bytes]:
        for symbol in symbols:
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString()

    async def answers() -> list[set[str]]:
        handler = cast(Any, table(FakeGateway())["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"])
        found = []
        async for payload in handler.handler(Call(""), questions()):
            said = reflection_pb2.ServerReflectionResponse.FromString(payload)
            names = set()
            for data in said.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                names |= {f"{file.package}.{message.name}" for message in file.message_type}
            found.append(names)
        return found

    for symbol, names in zip(symbols, asyncio.run(answers()), strict=True):
        assert symbol in names


def test_a_task_with_more_labels_has_wider_probabilities() -> None:
    gateway = FakeGateway(served=replace(FORM, labels=("a", "b", "c")))
    metadata = ask("ModelMetadata", oip_pb2.ModelMetadataRequest(name="brand"), gateway)
    assert {tensor.name: list(tensor.shape) for tensor in metadata.outputs} == {
        "label": [-1, 1],
        "probabilities": [-1, 3],
        "score": [-1, 1],
        "decision": [-1, 1],
    }
