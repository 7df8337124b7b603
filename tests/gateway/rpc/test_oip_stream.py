"""Requests on one stream: answered as they are ready, bounded, and nothing outlives the stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest

from gateway.errors import GatewayError, Malformed, Overloaded, UnknownSpecialist
from gateway.rpc.oip import InferenceService
from gateway.rpc.oip_stream import interleave
from gateway.rpc.wire import Call, closing
from protos import oip_pb2
from tests.gateway.rpc.fake import FakeGateway
from tests.gateway.rpc.test_oip_tensors import asking

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
PATIENCE_S = 10.0


class Source:
    """A caller's stream: counts what was read, and whether it was let go."""

    def __init__(self, payloads: Iterable[bytes], *, is_open: bool = False) -> None:
        self.read = 0
        self.is_closed = False
        self._payloads = payloads
        self._is_open = is_open

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            for payload in self._payloads:
                self.read += 1
                yield payload
            if self._is_open:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await story()
            assert len(asyncio.all_tasks()) == 1, "a task outlived its stream"

    asyncio.run(bounded())


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_an_answer_may_overtake_an_earlier_request() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        async def answer(payload: bytes) -> bytes:
            if payload == b"slow":
                await gate.wait()
            return payload

        found = []
        async for item in interleave(Source([b"slow", b"quick"]).stream(), answer, 8):
            found.append(item)
            gate.set()
        assert found == [b"quick", b"slow"]

    run(story)


def test_a_stream_without_requests_ends_without_answers() -> None:
    async def story() -> None:
        async def answer(payload: bytes) -> bytes:
            raise AssertionError

        assert [item async for item in interleave(Source([]).stream(), answer, 1)] == []

    run(story)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_read_than_may_wait_for_an_answer_to_be_taken(limit: int) -> None:
    async def story() -> None:
        source = Source(b"%d" % i for i in range(100))
        running = most = 0

        async def answer(payload: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return payload

        taken = 0
        async with closing(interleave(source.stream(), answer, limit)) as answers:
            async for _ in answers:
                await settle()
                # The answer in hand is not given back yet, so its place is not free.
                assert source.read - taken <= limit
                taken += 1
        assert (taken, most) == (100, limit)

    run(story)


def test_a_reader_who_leaves_ends_what_was_started_and_the_reading() -> None:
    async def story() -> None:
        source = Source([b"a", b"b"], is_open=True)
        cancelled = []

        async def answer(payload: bytes) -> bytes:
            if payload == b"a":
                return payload
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(payload)
            return payload

        async with closing(interleave(source.stream(), answer, 4)) as answers:
            assert await anext(answers) == b"a"
            await settle()
        assert cancelled == [b"b"]
        assert source.is_closed

    run(story)


def test_the_first_error_ends_the_stream() -> None:
    async def story() -> None:
        source = Source([b"wait", b"fail"], is_open=True)

        async def answer(payload: bytes) -> bytes:
            if payload == b"fail":
                raise Overloaded("brand")
            await asyncio.Event().wait()
            return payload

        with pytest.raises(Overloaded):
            await anext(interleave(source.stream(), answer, 4))
        assert source.is_closed

    run(story)


def test_a_caller_whose_stream_breaks_ends_it_with_that_error() -> None:
    async def story() -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"a"
            raise Malformed("x")

        async def answer(payload: bytes) -> bytes:
            await asyncio.Event().wait()
            return payload

        with pytest.raises(Malformed):
            await anext(interleave(broken(), answer, 4))

    run(story)


def test_work_cancelled_inside_ends_the_stream_instead_of_leaving_a_request_without_an_answer() -> None:
    async def story() -> None:
        async def answer(payload: bytes) -> bytes:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await anext(interleave(Source([b"a"], is_open=True).stream(), answer, 4))
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling(), "this very test was cancelled for waiting too long"

    run(story)


def request(name: str, text: str = "fine", model: str = "brand") -> bytes:
    message = asking(text)
    message.id = name
    message.model_name = model
    return message.SerializeToString()


async def ask(
    gateway: FakeGateway, payloads: Iterable[bytes], **metadata: str
) -> AsyncIterator[oip_pb2.ModelStreamInferResponse]:
    service = InferenceService(gateway, "1.0")
    async with closing(service.model_stream_infer(Call(PATH, metadata), Source(payloads).stream())) as answers:
        async for answer in answers:
            yield oip_pb2.ModelStreamInferResponse.FromString(answer)


def test_every_request_gets_one_answer_with_its_id_and_the_word_that_it_is_the_last() -> None:
    async def story() -> None:
        names = [f"r-{i}" for i in range(200)]
        found = [answer async for answer in ask(FakeGateway(), [request(name) for name in names])]
        assert sorted(answer.infer_response.id for answer in found) == sorted(names)
        for answer in found:
            assert not answer.error_message
            assert answer.infer_response.parameters["triton_final_response"].bool_param
            assert answer.infer_response.parameters["decision_id"].string_param == answer.infer_response.id
            assert len(answer.infer_response.outputs) == 4

    run(story)


def test_an_error_is_an_answer_and_the_stream_goes_on() -> None:
    async def story() -> None:
        gateway = FakeGateway(failing={"b": Overloaded("brand")})
        payloads = [request("a"), request("b"), request("c", model="nobody"), request("d", text=" "), request("e")]
        found = {answer.infer_response.id: answer async for answer in ask(gateway, payloads)}
        assert {name: answer.error_message for name, answer in found.items()} == {
            "a": "",
            "b": "row[0]: specialist 'brand' is overloaded",
            "c": "unknown specialist 'nobody'",
            "d": "row[0]: input.text is empty, expected text",
            "e": "",
        }
        assert found["c"].infer_response.model_name == "nobody"
        assert not found["b"].infer_response.outputs
        assert found["b"].infer_response.parameters["triton_final_response"].bool_param

    run(story)


def test_a_bug_tells_an_id_and_nothing_else() -> None:
    async def story() -> None:
        gateway = FakeGateway(failing={"a": ValueError("a secret of the implementation")})
        (found,) = [answer async for answer in ask(gateway, [request("a")])]
        assert found.error_message.startswith("internal error ")
        assert "secret" not in found.error_message

    run(story)


def test_a_caller_may_ask_that_the_first_error_ends_the_stream() -> None:
    async def story() -> None:
        gateway = FakeGateway(held={"a": asyncio.Event()})
        with pytest.raises(UnknownSpecialist):
            async for _ in ask(gateway, [request("a"), request("b", model="nobody")], triton_grpc_error="true"):
                pass
        assert gateway.cancelled == ["a"]

    run(story)


def test_bytes_that_are_no_request_end_the_stream() -> None:
    async def story() -> None:
        found = []
        with pytest.raises(GatewayError, match=r"malformed request, expected inference\.ModelInferRequest"):
            async for answer in ask(FakeGateway(), [b"\xff\xff"]):
                found.append(answer)
        assert not found

    run(story)
