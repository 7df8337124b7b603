"""Text streamed from the bundle that a request is assigned to, and what of it the input does not say."""

import asyncio
import time
from collections.abc import AsyncIterator

from gateway.domain.assignment import Arm
from gateway.domain.capabilities import Capabilities, Constraint
from gateway.engines.pool import Pool
from gateway.errors import (
    DeadlinePassed,
    EngineFailed,
    EngineStreamBroken,
    EngineUnavailable,
    GenerationUnsupported,
    PromptRejected,
)
from gateway.serving.grounding import Grounding
from gateway.serving.ports import GenerationFailed, GenerationRefused, WorkerAway
from gateway.serving.underway import Underway
from protos import decide_pb2

DEFAULT_NEW_TOKENS = 64


async def generate(
    pool: Pool, call: Underway, request: decide_pb2.GenerateRequest
) -> AsyncIterator[decide_pb2.GenerateChunk]:
    """Stream text until the call's time is over; raises GatewayError."""
    name, bundle = call.route.task.name, call.assignment.bundle
    # There is no text without a model, so holdback is of decisions only.
    arm = int(Arm.PRIMARY if call.assignment.arm is Arm.HOLDBACK else call.assignment.arm)
    tokens = 0
    try:
        link = pool.pick(bundle)
        if bundle not in link.generators:
            raise GenerationUnsupported(name)
        constraint = _constraint(request, link.capabilities(bundle))
        grounding = Grounding.of(request)
        limit = request.max_tokens or DEFAULT_NEW_TOKENS
        left_s = call.until - time.monotonic()
        if left_s <= 0:  # before an engine begins what nobody waits for
            raise DeadlinePassed(call.budget_us)
        chunks = link.generate(bundle, call.question.input, int(left_s * 1e6), limit, constraint)
        async with asyncio.timeout(left_s):
            async for chunk in chunks:
                tokens = chunk.tokens
                yield decide_pb2.GenerateChunk(
                    decision_id=call.decision_id,
                    text=chunk.text,
                    last=chunk.last,
                    arm=arm,  # type: ignore[arg-type]
                    bundle_digest=bundle,
                    plan_generation=call.route.generation,
                    tokens=tokens,
                    statements=grounding.of_chunk(chunk.text, is_last=chunk.last) if grounding else (),
                )
    except WorkerAway:
        raise EngineUnavailable(name) from None
    except TimeoutError:
        raise DeadlinePassed(call.budget_us) from None
    except GenerationRefused as error:
        raise PromptRejected(str(error)) from error
    except GenerationFailed as error:
        raise (EngineStreamBroken(name, tokens) if tokens else EngineFailed(name, str(error))) from error


def _constraint(request: decide_pb2.GenerateRequest, found: Capabilities | None) -> Constraint | None:
    """Read what the text must be, and refuse what the engine would not keep: text that ignores it is garbage."""
    kind = request.constraint.WhichOneof("kind")
    if kind is None:
        return None
    kept = found.constraints if found is not None else ()
    if kind not in kept:
        raise PromptRejected(
            f"constraint is {kind}, expected {' or '.join(kept) or 'none'} of this specialist's engine"
        )
    if kind == "choice":
        texts = tuple(request.constraint.choice.texts)
        if not texts or not all(texts):
            raise PromptRejected("constraint.choice.texts is empty or has an empty text, expected at least one")
        return Constraint("choice", choices=texts)
    pattern = getattr(request.constraint, kind)
    if not pattern:
        raise PromptRejected(f"constraint.{kind} is empty, expected a pattern")
    return Constraint(kind, pattern)
