"""Who may ask the control plane for what: one table from methods to roles, deny by default.

A person's name in a request has to be the caller's own. Every refusal is counted, and says nothing of what exists.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from controlplane.metrics import access_refusals
from protos.contract.access import LOOK_S, Access, Principal

log = structlog.get_logger()

LOOK = ("viewer", "operator", "approver", "steward", "auditor")
WORK = ("operator",)
SAFE = ("operator", "approver")
# By service and method; what is missing here is refused to everybody.
MAY: dict[str, tuple[str, ...]] = {
    "TrafficService/WatchPlan": ("gateway",),
    "TrafficService/Acknowledge": ("gateway",),
    "TrafficService/Report": ("gateway",),
    "ControlService/Train": WORK,
    "ControlService/Evaluate": WORK,
    "ControlService/StartRollout": WORK,
    "ControlService/RejectRollout": SAFE,
    "ControlService/HoldRollout": SAFE,
    "ControlService/ResumeRollout": WORK,
    "ControlService/RollBack": SAFE,
    "ControlService/DraftApproval": ("approver",),
    "ControlService/SubmitApproval": ("approver",),
    "ControlService/GetLedger": LOOK,
    "GovernanceService/UpdateOperators": ("operator", "approver"),
    "GovernanceService/Cosign": ("auditor",),
    "GovernanceService/ExplainDecision": ("steward", "auditor"),  # it may show what a caller sent
    "GovernanceService/Drill": SAFE,
    "ObserveService/EraseCaptured": ("steward",),
    "ObserveService/ReleaseLabels": ("labeller", "steward"),
    "LearningService/RetryJob": WORK,
    "LearningService/CancelJob": WORK,
    "LearningService/NextCases": ("labeller", "steward"),  # it shows what callers sent
    "LearningService/ImportLabels": ("labeller", "steward"),
}
SCOPED = {"caller", "labeller"}  # roles that hold for a principal's own specialists only
READS = ("Get", "List", "Prove", "Show")
CLAIMS = ("person", "started_by", "requested_by")


def roles_for(path: str) -> tuple[str, ...]:
    """Return the roles of which one is enough for a method, by its full path."""
    service, _, method = path.strip("/").rpartition("/")
    name = f"{service.rpartition('.')[2]}/{method}"
    if name in MAY:
        return MAY[name]
    return LOOK if method.startswith(READS) else ()


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Asks who calls before anything is read."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Find the handler and put the question in front of it."""
        handler = await continuation(details)
        if handler is None:
            return None
        roles = roles_for(details.method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, roles), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, roles), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, work: Any, roles: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._admit(request, context, roles)
            return await work(request, context)

        return call

    def _stream(self, work: Any, roles: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._admit(request, context, roles)
            async with contextlib.aclosing(work(request, context)) as answers:
                while True:
                    upcoming = asyncio.ensure_future(anext(answers, None))
                    try:
                        while not upcoming.done():
                            await asyncio.wait((upcoming,), timeout=LOOK_S)
                            # Whoever may not ask any more is told nothing more, and soon that it is over.
                            await self._admit(request, context, roles)
                    finally:
                        if not upcoming.done():
                            upcoming.cancel()
                            await asyncio.wait((upcoming,))
                    answer = upcoming.result()
                    if answer is None:
                        return
                    yield answer

        return call

    async def _admit(self, request: Any, context: Any, roles: tuple[str, ...]) -> None:
        metadata = dict(context.invocation_metadata() or ())
        principal = self._access().who(metadata.get("authorization"), _identity(context.auth_context()))
        if principal is None:
            access_refusals.labels("caller").inc()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected a token or certificate of a known caller")
        elif not any(principal.may(role) for role in roles):
            access_refusals.labels("role").inc()
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this caller may not do this")
        elif claimed := _claims_another(request, principal):
            access_refusals.labels("claim").inc()
            log.warning("name_of_another_claimed", caller=principal.name, claimed=claimed[:80])
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "a person can only speak in their own name")
        elif (hidden := _not_theirs(request, principal, roles)) is not None:
            access_refusals.labels("specialist").inc()
            # As if there were none of that name: whoever asks learns only of their own.
            await context.abort(grpc.StatusCode.NOT_FOUND, f"specialist is {hidden[:80]!r}, expected one of yours")


def access_file_refused(problem: str) -> None:
    """Say that a changed access file was not taken; the last good one stays in force."""
    log.error("access_file_refused", problem=problem)


def _not_theirs(request: Any, principal: Principal, roles: tuple[str, ...]) -> str | None:
    """Return the specialist asked for where the caller may only ask for its own, and this is none of them."""
    if principal.roles & set(roles) - SCOPED or "specialist" not in request.DESCRIPTOR.fields_by_name:
        return None
    return None if principal.may_use(request.specialist) else str(request.specialist)


def _claims_another(request: Any, principal: Principal) -> str:
    for field in CLAIMS:
        if field in request.DESCRIPTOR.fields_by_name:
            said = getattr(request, field)
            if isinstance(said, str) and said not in ("", principal.name):
                return said
    return ""


def _identity(names: Any) -> str:
    """Return who the caller's verified certificate names: its URI, else its DNS name, else its subject."""
    if names.get("transport_security_type") != [b"ssl"]:
        return ""
    alternatives = [name.decode() for name in names.get("x509_subject_alternative_name", ())]
    uris = [name for name in alternatives if "://" in name]
    for found in (uris, alternatives, [name.decode() for name in names.get("x509_subject", ())]):
        if found:
            return str(found[0])
    return ""
