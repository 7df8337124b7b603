"""The only table from errors to gRPC statuses."""

import uuid
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from controlplane.domain.rollout import IllegalTransition
from controlplane.errors import (
    ApprovalRefused,
    DatabaseUnavailable,
    NotFound,
    RequestInvalid,
    StepRefused,
    UnknownBundle,
    UnknownJob,
    UnknownRollout,
    UnknownSpecialist,
)
from controlplane.store.artifacts import ArtifactMissing
from protos.contract.digest import DigestMalformed

log = structlog.get_logger()

STATUS: dict[type[Exception], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    UnknownSpecialist: grpc.StatusCode.NOT_FOUND,
    UnknownRollout: grpc.StatusCode.NOT_FOUND,
    UnknownJob: grpc.StatusCode.NOT_FOUND,
    UnknownBundle: grpc.StatusCode.NOT_FOUND,
    RequestInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    DigestMalformed: grpc.StatusCode.INVALID_ARGUMENT,
    DecodeError: grpc.StatusCode.INVALID_ARGUMENT,
    StepRefused: grpc.StatusCode.FAILED_PRECONDITION,
    IllegalTransition: grpc.StatusCode.FAILED_PRECONDITION,
    ApprovalRefused: grpc.StatusCode.FAILED_PRECONDITION,
    ArtifactMissing: grpc.StatusCode.FAILED_PRECONDITION,
    DatabaseUnavailable: grpc.StatusCode.UNAVAILABLE,
}
# Who signed matters more than what: these say "sign in" and "ask someone else".
BY_REASON = {
    "approver_unknown": grpc.StatusCode.UNAUTHENTICATED,
    "signature_invalid": grpc.StatusCode.UNAUTHENTICATED,
    "approver_not_allowed": grpc.StatusCode.PERMISSION_DENIED,
    "self_approval": grpc.StatusCode.PERMISSION_DENIED,
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
}


def told(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the status and words for a caller; a bug is an id and no details."""
    if isinstance(error, ApprovalRefused):
        return BY_REASON.get(error.reason, STATUS[ApprovalRefused]), f"{error.reason}: {error}"
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind], str(error)
    number = uuid.uuid4().hex
    log.error("internal_error", id=number, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error {number}"


def translated(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """End a unary call with the right status when it raises."""

    @wraps(method)
    async def call(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await method(self, request, context)
        except Exception as error:
            await context.abort(*told(error))

    return call
