"""Tensors become the decisions that were meant, and answers the tensors that were asked for."""

import asyncio
import struct
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, PromptRejected, UnknownSpecialist
from gateway.rpc.oip import InferenceService
from gateway.rpc.oip_row import cut, cut_again
from gateway.rpc.oip_tensors import read_question
from gateway.rpc.wire import Call
from protos import oip_pb2
from protos.contract.task import Field
from tests.gateway.rpc.fake import BUNDLE, FakeGateway
from tests.tasks import TASK

CALL = Call("/inference.GRPCInferenceService/ModelInfer", deadline=12.5)
FORM = replace(
    TASK,
    fields=(
        Field("title", "text", True, True),
        Field("price", "number", True, True),
        Field("bids", "integer", False, True),
        Field("known", "flag", False, True),
    ),
    template="{title} {price} {bids} {known}",
)


def raw_texts(*texts: str | bytes) -> bytes:
    elements = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def asking(*texts: str, shape: list[int] | None = None, **parameters: Any) -> oip_pb2.ModelInferRequest:
    request = oip_pb2.ModelInferRequest(model_name="brand", raw_input_contents=[raw_texts(*texts)])
    request.inputs.add(name="text", datatype="BYTES", shape=shape or [len(texts)])
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def infer(request: oip_pb2.ModelInferRequest, gateway: FakeGateway | None = None) -> oip_pb2.ModelInferResponse:
    service = InferenceService(gateway or FakeGateway(), "1.0")
    return oip_pb2.ModelInferResponse.FromString(asyncio.run(service.model_infer(CALL, request.SerializeToString())))


def tensors(response: oip_pb2.ModelInferResponse) -> dict[str, tuple[str, list[int], bytes]]:
    assert len(response.outputs) == len(response.raw_output_contents)
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: (output.datatype, list(output.shape), raw) for output, raw in pairs}


def test_one_row_is_answered_whole() -> None:
    gateway = FakeGateway()
    request = asking("unsafe page", routing_key="caller")
    request.id = "r-1"
    response = infer(request, gateway)
    assert (response.model_name, response.model_version, response.id) == ("brand", "1", "r-1")
    assert tensors(response) == {
        "label": ("BYTES", [1], raw_texts("unsafe")),
        "probabilities": ("FP32", [1, 2], struct.pack("<2f", 0.25, 0.75)),
        "score": ("FP32", [1], struct.pack("<f", 0.75)),
        "decision": ("BYTES", [1], raw_texts("block")),
    }
    told = {name: getattr(p, p.WhichOneof("parameter_choice") or "") for name, p in response.parameters.items()}
    assert told == {
        "decision_id": "r-1",
        "arm": "canary",
        "bundle_digest": BUNDLE,
        "plan_generation": 7,
        "bucket": 42,
        "fallback": False,
    }
    (asked,) = gateway.asked
    assert (asked.specialist, asked.input.text, asked.routing_key) == ("brand", "unsafe page", "caller")
    assert gateway.deadlines == [12.5]


@pytest.mark.parametrize(("shape", "expected"), [([2], [2]), ([2, 1], [2, 1])], ids=["flat", "as the metadata says"])
def test_outputs_are_shaped_as_the_inputs_were(shape: list[int], expected: list[int]) -> None:
    found = tensors(infer(asking("unsafe", "fine", shape=shape)))
    assert {name: shape for name, (_, shape, _) in found.items()} == {
        "label": expected,
        "decision": expected,
        "score": expected,
        "probabilities": [2, 2],
    }
    assert found["label"][2] == raw_texts("unsafe", "safe")
    assert struct.unpack("<4f", found["probabilities"][2]) == (0.25, 0.75, 0.75, 0.25)


def test_only_the_outputs_asked_for_come_each_once_and_in_order() -> None:
    request = asking("fine")
    for name in ("score", "label", "score"):
        request.outputs.add(name=name)
    assert [output.name for output in infer(request).outputs] == ["score", "label"]


def test_rows_get_ids_of_their_own() -> None:
    gateway = FakeGateway()
    request = asking("a", "b")
    request.id = "r"
    infer(request, gateway)
    assert [asked.decision_id for asked in gateway.asked] == ["r/0", "r/1"]


def test_a_bad_row_starts_no_decision() -> None:
    gateway = FakeGateway()
    with pytest.raises(PromptRejected, match=r"row\[1\]: input.text is empty"):
        infer(asking("a", " "), gateway)
    assert not gateway.asked


def form(rows: int, *, is_raw: bool, leave_out: tuple[str, ...] = ()) -> oip_pb2.ModelInferRequest:
    values: dict[str, tuple[str, list[Any], str, str]] = {
        "title": ("BYTES", [f"t{i}".encode() for i in range(rows)], "bytes_contents", ""),
        "price": ("FP64", [i + 0.5 for i in range(rows)], "fp64_contents", "d"),
        "bids": ("INT64", [-(2**40) - i for i in range(rows)], "int64_contents", "q"),
        "known": ("BOOL", [i % 2 == 0 for i in range(rows)], "bool_contents", "?"),
    }
    request = oip_pb2.ModelInferRequest(model_name="brand")
    for name, (datatype, column, contents, code) in values.items():
        if name in leave_out:
            continue
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[rows, 1])
        if is_raw:
            raw = struct.pack(f"<{rows}{code}", *column) if code else raw_texts(*column)
            request.raw_input_contents.append(raw)
        else:
            getattr(tensor.contents, contents).extend(column)
    return request


@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
def test_every_kind_of_field_is_read(is_raw: bool) -> None:
    gateway = FakeGateway(served=FORM)
    infer(form(3, is_raw=is_raw), gateway)
    fields = gateway.asked[2].input.fields
    assert {name: getattr(value, value.WhichOneof("kind") or "") for name, value in fields.items()} == {
        "title": "t2",
        "price": 2.5,
        "bids": -(2**40) - 2,
        "known": True,
    }


def test_an_optional_field_may_be_left_out_and_a_required_one_not() -> None:
    gateway = FakeGateway(served=FORM)
    infer(form(1, is_raw=True, leave_out=("bids", "known")), gateway)
    assert set(gateway.asked[0].input.fields) == {"title", "price"}
    with pytest.raises(PromptRejected, match="'price'.* is missing"):
        infer(form(1, is_raw=True, leave_out=("price",)), gateway)


def test_a_number_tensor_of_the_wrong_size_is_refused() -> None:
    request = form(1, is_raw=True)
    request.raw_input_contents[1] = b"1234567"
    with pytest.raises(PromptRejected, match="'price': 7 raw bytes, expected a multiple of 8"):
        infer(request, FakeGateway(served=FORM))


def classified(count: int, gateway: FakeGateway, output: str = "probabilities") -> oip_pb2.ModelInferResponse:
    request = asking("x")
    request.outputs.add(name=output).parameters["classification"].int64_param = count
    return infer(request, gateway)


def test_classification_gives_the_likeliest_first_and_the_earlier_label_of_a_tie() -> None:
    three = replace(TASK, labels=("a", "b", "c"), cost=((0, 0), (0, 0), (0, 0)))
    gateway = FakeGateway(served=three, probabilities=(0.25, 0.5, 0.25))
    assert tensors(classified(2, gateway)) == {
        "probabilities": ("BYTES", [1, 2], raw_texts("0.500000:1:b", "0.250000:0:a"))
    }
    assert tensors(classified(9, gateway))["probabilities"][1] == [1, 3]


@pytest.mark.parametrize(("count", "output"), [(0, "probabilities"), (-1, "probabilities"), (1, "score")])
def test_classification_that_means_nothing_is_refused(count: int, output: str) -> None:
    with pytest.raises(PromptRejected, match=f"{output!r}: classification is {count}"):
        classified(count, FakeGateway(), output)


def test_a_fallback_keeps_the_shapes_and_says_why() -> None:
    response = infer(asking("x"), FakeGateway(fallback=True))
    found = tensors(response)
    assert found["probabilities"] == ("FP32", [1, 2], struct.pack("<2f", 0, 0))
    assert found["decision"][2] == raw_texts("block")
    assert response.parameters["fallback"].bool_param
    assert response.parameters["fallback_reason"].string_param == "no_time"


@pytest.mark.parametrize(
    ("parameters", "budget_us"),
    [
        ({"timeout": 5_000}, 5_000),
        ({"timeout": 5_000, "budget_us": 4_000}, 4_000),
        ({"timeout": 4_000, "budget_us": 5_000}, 4_000),
        ({"timeout": 0}, 0),
        ({"priority": 0, "sequence_id": 0, "sequence_start": False, "sequence_end": False}, 0),
        ({"triton_enable_empty_final_response": True}, 0),
        ({"someone_elses": "parameter"}, 0),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_parameters_that_can_be_honoured_are(parameters: dict[str, Any], budget_us: int) -> None:
    gateway = FakeGateway()
    infer(asking("x", **parameters), gateway)
    assert gateway.asked[0].budget_us == budget_us


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"priority": 1}, "'priority' is 1, expected none"),
        ({"sequence_id": 5}, "'sequence_id' is 5, expected none"),
        ({"sequence_id": "s"}, "'sequence_id' is 's', expected none"),
        ({"sequence_start": True}, "'sequence_start' is True, expected none"),
        ({"sequence_end": True}, "'sequence_end' is True, expected none"),
        ({"triton_unheard_of": 1}, "'triton_unheard_of' is unknown"),
        ({"timeout": -1}, "'timeout' is -1, expected microseconds"),
        ({"timeout": "soon"}, "'timeout' is 'soon', expected microseconds"),
        ({"budget_us": 2**32}, "'budget_us' is 4294967296, expected microseconds"),
        ({"routing_key": 7}, "'routing_key' is int64_param, expected string_param"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_parameters_that_cannot_be_honoured_are_refused_by_name(parameters: dict[str, Any], words: str) -> None:
    gateway = FakeGateway()
    with pytest.raises(PromptRejected) as refused:
        infer(asking("x", **parameters), gateway)
    assert words in str(refused.value)
    assert not gateway.asked


def test_tensors_in_shared_memory_are_refused_by_name() -> None:
    given = oip_pb2.ModelInferRequest(model_name="brand")
    given.inputs.add(name="text", datatype="BYTES", shape=[1]).parameters["shared_memory_region"].string_param = "r0"
    with pytest.raises(PromptRejected, match="input 'text': shared_memory_region is 'r0'"):
        infer(given)
    wanted = asking("x")
    wanted.outputs.add(name="score").parameters["shared_memory_region"].string_param = "r1"
    with pytest.raises(PromptRejected, match="output 'score': shared_memory_region is 'r1'"):
        infer(wanted)


@given(st.lists(st.text(), min_size=1, max_size=64))
def test_any_texts_are_read_as_they_were_written(texts: list[str]) -> None:
    asked = read_question(asking(*texts), TASK)
    assert [decision.input.text for decision in asked.questions] == texts


@given(st.lists(st.binary(max_size=40), max_size=3), st.lists(st.integers(-2, 70), max_size=3))
def test_no_tensor_causes_an_error_that_names_nothing(raws: list[bytes], shape: list[int]) -> None:
    request = oip_pb2.ModelInferRequest(model_name="brand", raw_input_contents=raws)
    for name, datatype in (("title", "BYTES"), ("price", "FP64"), ("known", "BOOL"))[: max(len(raws), 1)]:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    try:
        asked = read_question(request, FORM)
    except GatewayError as error:
        assert isinstance(error, PromptRejected)
        assert "expected" in str(error) or "not UTF-8" in str(error) or "past the end" in str(error)
    else:
        assert len(asked.questions) == shape[0]


@given(
    texts=st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=2),
    request_id=st.text(max_size=140),
    routing_key=st.text(max_size=10),
    outputs=st.lists(st.sampled_from(["score", "label", "probabilities", "decision"]), unique=True),
    is_flat=st.booleans(),
)
def test_however_its_fields_are_ordered_a_request_gets_the_same_answer(
    texts: list[str], request_id: str, routing_key: str, outputs: list[str], is_flat: bool
) -> None:
    request = asking(*texts, shape=[len(texts)] if is_flat else None)
    request.id = request_id
    if routing_key:
        request.parameters["routing_key"].string_param = routing_key
    for name in outputs:
        request.outputs.add(name=name)
    whole = request.SerializeToString()
    raw = oip_pb2.ModelInferRequest(raw_input_contents=request.raw_input_contents).SerializeToString()
    assert whole.endswith(raw)
    payloads = [whole, raw + whole[: -len(raw)], whole]

    async def ask() -> list[tuple[Any, oip_pb2.ModelInferResponse]]:
        gateway = FakeGateway()
        service = InferenceService(gateway, "1")
        found = []
        for payload in payloads:
            try:
                answer = oip_pb2.ModelInferResponse.FromString(await service.model_infer(CALL, payload))
            except GatewayError as error:
                found.append((str(error), oip_pb2.ModelInferResponse()))
                continue
            found.append((gateway.asked[-1], answer))
        return found

    first, *others = asyncio.run(ask())
    assert all(other == first for other in others)


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_taken_apart_or_left_to_the_general_way(payload: bytes) -> None:
    parts = cut(payload)
    if parts is not None:
        try:
            request = oip_pb2.ModelInferRequest.FromString(payload)
        except DecodeError:
            return
        assert request.raw_input_contents[-1] == parts.raw
        assert request.id.encode() == parts.id


@given(text=st.text(max_size=300), rest=st.binary(max_size=200))
def test_what_follows_a_known_kind_is_taken_apart_as_if_it_were_not_known(text: str, rest: bytes) -> None:
    known = cut(asking("text").SerializeToString())
    assert known is not None
    whole = asking(text).SerializeToString()
    assert cut_again(whole, known.kind) == cut(whole)
    for payload in (known.kind + rest, known.kind + b"\x3a" + rest, whole[:-1], whole + rest, rest):
        parts = cut_again(payload, known.kind)
        assert parts is None or parts == cut(payload)


def test_a_request_of_a_known_kind_meets_the_task_of_the_plan_in_force() -> None:
    async def story() -> None:
        gateway = FakeGateway()
        service = InferenceService(gateway, "1")
        payload = asking("text").SerializeToString()
        await service.model_infer(CALL, payload)
        gateway.served = replace(TASK, fields=(Field("title", "text", True, True),))
        with pytest.raises(PromptRejected, match="input 'text' is unknown"):
            await service.model_infer(CALL, payload)
        gateway.served = replace(TASK, name="another")
        with pytest.raises(UnknownSpecialist):
            await service.model_infer(CALL, payload)

    asyncio.run(story())
