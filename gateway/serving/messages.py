"""Questions and decisions as the messages of ``decide.proto``: what native callers send and what is captured."""

from gateway.domain.decision import Decision, Question
from protos import decide_pb2
from protos.contract.given import Given


def read_question(request: decide_pb2.DecideRequest) -> Question:
    """Take a question out of a message."""
    return Question(
        request.specialist,
        Given.of(request.input),
        request.routing_key,
        request.decision_id,
        request.budget_us,
        request.test,
    )


def write_decision(said: Decision) -> decide_pb2.DecideResponse:
    """Write an answer."""
    answer = decide_pb2.DecideResponse(
        decision_id=said.decision_id,
        arm=said.arm,  # type: ignore[arg-type]
        bundle_digest=said.bundle_digest,
        plan_generation=said.plan_generation,
        bucket=said.bucket,
        label=said.label,
        score=said.score,
        decision=said.decision,
        truncated=said.truncated,
        cached=said.cached,
    )
    if said.probabilities:
        add = answer.probabilities.add
        for label, probability in zip(said.labels, said.probabilities, strict=True):
            add(label=label, probability=probability)
    for reason in said.reasons:
        answer.reasons.add(field=reason.field, log_odds=reason.log_odds, statement=reason.statement)
    if said.fallback:
        answer.fallback.used = True
        answer.fallback.reason = said.fallback  # type: ignore[assignment]
    timing = answer.timing
    timing.queue_us, timing.engine_us, timing.total_us = said.queue_us, said.engine_us, said.total_us
    return answer
