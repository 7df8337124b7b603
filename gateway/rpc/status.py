"""The only table from what happened to the gRPC status a caller sees."""

import logging
import secrets
from dataclasses import dataclass

from grpc import StatusCode

from gateway import errors

_log = logging.getLogger(__name__)

CODES: dict[type[errors.GatewayError], StatusCode] = {
    errors.Malformed: StatusCode.INVALID_ARGUMENT,
    errors.FramingBroken: StatusCode.INTERNAL,
    errors.MessageTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.CompressionUnknown: StatusCode.UNIMPLEMENTED,
    errors.UnknownMethod: StatusCode.UNIMPLEMENTED,
    errors.PromptRejected: StatusCode.INVALID_ARGUMENT,
    errors.UnknownSpecialist: StatusCode.NOT_FOUND,
    errors.OverrideRefused: StatusCode.PERMISSION_DENIED,
    errors.UnknownService: StatusCode.NOT_FOUND,
    errors.GenerationUnsupported: StatusCode.UNIMPLEMENTED,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.NoPlanYet: StatusCode.UNAVAILABLE,
    errors.Draining: StatusCode.UNAVAILABLE,
    errors.EngineUnavailable: StatusCode.UNAVAILABLE,
    errors.DeadlineTooShort: StatusCode.DEADLINE_EXCEEDED,
    errors.DeadlinePassed: StatusCode.DEADLINE_EXCEEDED,
    errors.EngineStreamBroken: StatusCode.ABORTED,
    errors.EngineFailed: StatusCode.INTERNAL,
    errors.CallerUnknown: StatusCode.UNAUTHENTICATED,
    errors.CallerNotAllowed: StatusCode.PERMISSION_DENIED,
    errors.RollbackForbidden: StatusCode.PERMISSION_DENIED,
    errors.NothingToLeave: StatusCode.FAILED_PRECONDITION,
}

# Messages travel percent-encoded in trailers, up to twelve bytes a character, and peers drop trailers over 8 KiB.
MAX_MESSAGE_CHARACTERS = 512

NEVER_RETRY = "-1"
PUSHBACK = "grpc-retry-pushback-ms"
PUSHBACK_MS = 100  # when a caller whom the front refuses may come again: what is in flight is then over


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends: a code, a message a caller may read, and trailing metadata."""

    code: StatusCode
    message: str
    trailing: tuple[tuple[str, str], ...] = ()


OK = Status(StatusCode.OK, "")
LATE = Status(StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
BUSY = Status(StatusCode.RESOURCE_EXHAUSTED, "too many calls are open", ((PUSHBACK, str(PUSHBACK_MS)),))
INTERRUPTED = Status(StatusCode.UNAVAILABLE, "the work behind this call was interrupted")


def status_of(error: BaseException, path: str) -> Status:
    """Choose the status an error ends its call with; an unforeseen error is logged under an id."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
    if code is None:
        error_id = secrets.token_hex(8)
        _log.error("call to %s failed, error id %s", path, error_id, exc_info=error)
        return Status(StatusCode.INTERNAL, f"internal error {error_id}")
    if isinstance(error, errors.EngineFailed):
        _log.warning("call to %s failed: %s (%s)", path, error, error.detail)
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.Overloaded):
        pushback = NEVER_RETRY if error.retry_after_ms is None else str(error.retry_after_ms)
        trailing = ((PUSHBACK, pushback),)
    return Status(code, str(error)[:MAX_MESSAGE_CHARACTERS], trailing)
