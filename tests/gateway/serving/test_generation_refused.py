"""What a caller asks of a text, and no engine can keep, is the caller's mistake and no engine's."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.domain.assignment import Arm
from gateway.errors import EngineFailed, GatewayError, PromptRejected
from gateway.serving.generation import generate
from gateway.serving.ports import GenerationFailed, GenerationRefused
from protos import decide_pb2


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (GenerationRefused("the constraint is refused: unclosed group"), PromptRejected),
        (GenerationFailed("logits are not finite"), EngineFailed),
    ],
)
def test_who_is_to_blame_for_a_text_that_does_not_come(raised: Exception, expected: type[GatewayError]) -> None:
    async def chunks(*_: Any) -> AsyncIterator[Any]:
        raise raised
        yield

    link = SimpleNamespace(
        generators={"b"}, capabilities=lambda _: SimpleNamespace(constraints=("regex",)), generate=chunks
    )
    call: Any = SimpleNamespace(
        route=SimpleNamespace(task=SimpleNamespace(name="brand"), generation=1),
        assignment=SimpleNamespace(bundle="b", arm=Arm.PRIMARY),
        question=SimpleNamespace(input=None),
        decision_id="d",
        until=time.monotonic() + 60,
        budget_us=60_000_000,
    )

    async def read() -> None:
        request = decide_pb2.GenerateRequest(constraint=decide_pb2.Constraint(regex="("))
        async for _ in generate(SimpleNamespace(pick=lambda _: link), call, request):  # type: ignore[arg-type]
            pass

    with pytest.raises(expected):
        asyncio.run(read())
