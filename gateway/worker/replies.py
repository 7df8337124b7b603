"""What a worker says of a job, as frames."""

from collections.abc import Mapping

from gateway.worker.engine import Answer
from gateway.worker.queue import Left
from protos import engine_pb2
from protos.contract.rows import ResultRow

MAX_MESSAGE = 200
MAX_U32 = 2**32 - 1

OK = engine_pb2.RESULT_STATUS_OK
EXPIRED = engine_pb2.RESULT_STATUS_EXPIRED
CANCELLED = engine_pb2.RESULT_STATUS_CANCELLED
OVERLOADED = engine_pb2.RESULT_STATUS_OVERLOADED
UNKNOWN_BUNDLE = engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE
BAD_INPUT = engine_pb2.RESULT_STATUS_BAD_INPUT
ENGINE_ERROR = engine_pb2.RESULT_STATUS_ENGINE_ERROR

LEFT = {
    Left.EXPIRED: (EXPIRED, "the time ran out in the queue"),
    Left.OVERLOADED: (OVERLOADED, "the queue is full"),
}


def with_more(row: ResultRow, given: Answer, statements: Mapping[str, str]) -> engine_pb2.Frame:
    """Write an answer of which there is more to tell than fits a row."""
    frame = engine_pb2.Frame(result=engine_pb2.Result(**row._asdict()))
    result = frame.result
    if given.vocabulary_mass is not None:
        result.vocabulary_mass = given.vocabulary_mass
    result.label_logprobs.extend(given.logprobs)
    result.bounded = given.is_bounded
    for name, share in given.reasons:
        result.reasons.add(field=name, log_odds=share, statement=statements.get(name, ""))
    return frame


def micros(seconds: float) -> int:
    """Return a duration as frames tell it."""
    return min(MAX_U32, max(0, round(seconds * 1e6)))


def short(error: BaseException | None) -> str:
    """Return what an error says, in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:MAX_MESSAGE]


def refusal(id: int, bundle: str, status: engine_pb2.ResultStatus, message: str) -> engine_pb2.Frame:
    """Write that a job has no answer, and why."""
    return engine_pb2.Frame(result=engine_pb2.Result(id=id, status=status, message=message, bundle_digest=bundle))


def last_chunk(id: int, status: engine_pb2.ResultStatus, message: str, tokens: int = 0) -> engine_pb2.Frame:
    """Write the chunk that ends a generation."""
    return engine_pb2.Frame(chunk=engine_pb2.Chunk(id=id, last=True, status=status, message=message, tokens=tokens))
