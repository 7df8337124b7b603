"""What became of one question to a server elsewhere, as the request path reads it."""

from gateway.engines.ports import Busy, EngineProblem, InputRefused, LabelScores, OutOfTime, Served, Unreachable
from gateway.engines.serving import Calibrated
from protos import engine_pb2
from protos.contract.head import Head
from protos.contract.task import InputInvalid

MAX_MESSAGE = 200
_STATUS: tuple[tuple[type[EngineProblem], "engine_pb2.ResultStatus"], ...] = (
    (InputRefused, engine_pb2.RESULT_STATUS_BAD_INPUT),
    (Busy, engine_pb2.RESULT_STATUS_OVERLOADED),
    (OutOfTime, engine_pb2.RESULT_STATUS_EXPIRED),
    (Unreachable, engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE),
    (EngineProblem, engine_pb2.RESULT_STATUS_ENGINE_ERROR),
)


def unanswered(number: int, bundle: str, error: Exception) -> engine_pb2.Result:
    """Say why there is no answer."""
    status = engine_pb2.RESULT_STATUS_EXPIRED
    if isinstance(error, InputInvalid):
        status = engine_pb2.RESULT_STATUS_BAD_INPUT
    elif isinstance(error, EngineProblem):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return failed(number, bundle, status, str(error))


def failed(number: int, bundle: str, status: "engine_pb2.ResultStatus", message: str) -> engine_pb2.Result:
    """Say in a few words what went wrong."""
    return engine_pb2.Result(id=number, bundle_digest=bundle, status=status, message=in_short(message))


def in_short(text: str) -> str:
    """Cut what a server says to one short line."""
    return " ".join(text.split())[:MAX_MESSAGE]


def answered(
    number: int, served: Served, head: Head, scores: LabelScores, answer: Calibrated, taken_s: float
) -> engine_pb2.Result:
    """Write an answer down."""
    task, row = served.task, answer.probabilities
    return engine_pb2.Result(
        id=number,
        status=engine_pb2.RESULT_STATUS_OK,
        probabilities=row,
        label=row.index(max(row)),
        decision=head.decide(task, row),
        score=row[task.score_index],
        truncated=scores.is_truncated,
        tokens=scores.prompt_tokens,
        queue_us=scores.queue_us,
        # What the server does not tell apart counts as the engine's: the network is part of a remote engine.
        engine_us=scores.engine_us or max(0, round(taken_s * 1e6) - scores.queue_us),
        batch_size=scores.batch_size,
        bundle_digest=served.digest,
        vocabulary_mass=scores.vocabulary_mass,
        label_logprobs=answer.logprobs,
        bounded=scores.is_bounded,
    )
