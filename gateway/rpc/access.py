"""Deny by default: every caller is somebody, and what is not theirs is not there.

Each principal has a method table of its own, over a view of the request path that holds only its specialists. A
specialist that a caller may not use is answered exactly as one that does not exist.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

from gateway.domain.decision import Decision, Question
from gateway.errors import CallerNotAllowed, CallerUnknown, UnknownSpecialist
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import BidiStream, Call, Kind, Method, ServerStream, Unary, closing
from gateway.serving.statistics import SpecialistStatistics
from protos import decide_pb2
from protos.contract.access import Access, Principal
from protos.contract.task import TaskSpec

AUTHORIZATION = "authorization"
LOCAL = "/interlock.traffic.v1.LocalService/"
MAY_LOOK = frozenset(("viewer", "operator", "approver", "auditor"))
Note = Callable[[str], None]


class Scoped:
    """The request path as one principal sees it."""

    def __init__(self, gateway: Gateway, principal: Principal, note: Note) -> None:
        self._gateway = gateway
        self._principal = principal
        self._note = note

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping."""
        return self._gateway.draining

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        """Decide one input of a specialist that is the caller's; raises as the request path does."""
        self._check("caller", question.specialist)
        return await self._gateway.decide(question, deadline, arrived)

    def generate(
        self, request: decide_pb2.GenerateRequest, deadline: float | None, arrived: float | None
    ) -> AsyncIterator[decide_pb2.GenerateChunk]:
        """Stream text of a specialist that is the caller's."""
        self._check("caller", request.specialist)
        return self._gateway.generate(request, deadline, arrived)

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        """Record an outcome, where the caller may label."""
        self._check("labeller", request.specialist)
        return self._gateway.report_outcome(request)

    def task(self, specialist: str) -> TaskSpec:
        """Return a task that is the caller's."""
        self._check("", specialist)
        return self._gateway.task(specialist)

    def specialists(self) -> tuple[str, ...]:
        """Name the caller's specialists of the plan in force."""
        return tuple(name for name in self._gateway.specialists() if self._principal.may_use(name))

    def statistics(self, specialist: str) -> SpecialistStatistics:
        """Return what a specialist of the caller's did."""
        self._check("", specialist)
        return self._gateway.statistics(specialist)

    def is_ready(self) -> bool:
        """Say whether calls can be answered."""
        return self._gateway.is_ready()

    def is_ready_for(self, specialist: str) -> bool:
        """Say whether a specialist of the caller's can answer."""
        return self._principal.may_use(specialist) and self._gateway.is_ready_for(specialist)

    def _check(self, role: str, specialist: str) -> None:
        # The role first: its refusal is the same whatever specialists there are.
        if role and not self._principal.may(role):
            self._note("role")
            raise CallerNotAllowed
        if not self._principal.may_use(specialist):
            self._note("specialist")
            raise UnknownSpecialist(specialist)


def with_access(
    methods: Iterable[Method], access: Callable[[], Access], note: Note, build: Callable[[Principal], Iterable[Method]]
) -> tuple[Method, ...]:
    """Have a method table ask who calls.

    Args:
        methods: The table without anybody in particular; health and reflection stay as they are in it.
        access: Says who is who now.
        note: Counts a refusal, by a closed word.
        build: Makes the table of a principal, once for each change of ``access``.
    """

    def made(known: Access) -> tuple[Access, dict[str, dict[str, Any]]]:
        return known, {p.name: {m.path: m.handler for m in build(p)} for p in known.principals}

    known, tables = made(access())

    def caller_of(call: Call) -> Principal:
        nonlocal known, tables
        now = access()
        if now is not known:
            known, tables = made(now)
        principal = known.who(call.metadata.get(AUTHORIZATION), call.identity)
        if principal is None:
            note("caller")
            raise CallerUnknown
        return principal

    def handler_for(principal: Principal, call: Call) -> Any:
        if call.path.startswith(LOCAL) and not principal.roles & MAY_LOOK:
            note("role")
            raise CallerNotAllowed
        return tables[principal.name][call.path]

    async def unary(call: Call, payload: bytes) -> bytes:
        return await cast(Unary, handler_for(caller_of(call), call))(call, payload)

    async def stream(call: Call, request: Any) -> AsyncIterator[bytes]:
        principal = caller_of(call)
        async with closing(handler_for(principal, call)(call, request)) as answers:
            async for answer in answers:
                if caller_of(call) != principal:  # what was allowed then may not be now
                    note("role")
                    raise CallerNotAllowed
                yield answer

    return tuple(
        method
        if method.path.startswith("/grpc.")
        else Method(
            method.path,
            method.kind,
            unary if method.kind is Kind.UNARY else cast(ServerStream | BidiStream, stream),
        )
        for method in methods
    )
