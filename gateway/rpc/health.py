"""grpc.health.v1.Health: what load balancers and probes ask."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from gateway.errors import UnknownService
from gateway.rpc.wire import Call, Kind, Method, parse

SERVICE = "grpc.health.v1.Health"


class HealthState:
    """Whether the gateway takes calls; owned by the event loop's thread. Draining is for ever."""

    def __init__(self) -> None:
        self._ready = False
        self._draining = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether new calls are welcome."""
        return self._ready and not self._draining

    @property
    def is_draining(self) -> bool:
        """Whether the process is stopping."""
        return self._draining

    def set(self, ready: bool) -> None:
        """Say whether calls can be answered; watchers hear of a change."""
        if ready != self._ready:
            self._ready = ready
            self._notify()

    def drain(self) -> None:
        """Stop being ready for good; watchers are told and let go."""
        if not self._draining:
            self._draining = True
            self._notify()

    def changed(self) -> asyncio.Event:
        """Return the event the next change sets. Take it before reading the state, or a change is missed."""
        return self._changed

    def _notify(self) -> None:
        # A fresh event for each change: nobody has to clear one that others still wait for.
        event, self._changed = self._changed, asyncio.Event()
        event.set()


class HealthService:
    """Answers for the whole process ("") and for each named service alike."""

    def __init__(self, state: HealthState, services: Iterable[str]) -> None:
        self._state = state
        self._services = frozenset({"", *services})

    def methods(self) -> tuple[Method, ...]:
        """Return this service's rows of the method table."""
        return (
            Method(f"/{SERVICE}/Check", Kind.UNARY, self.check),
            Method(f"/{SERVICE}/Watch", Kind.SERVER_STREAM, self.watch),
        )

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._state.is_serving else HealthCheckResponse.NOT_SERVING

    async def check(self, call: Call, payload: bytes) -> bytes:
        """Answer once; raises UnknownService."""
        service = parse(HealthCheckRequest, payload).service
        status = self._status(service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise UnknownService(service)
        answer: bytes = HealthCheckResponse(status=status).SerializeToString()
        return answer

    async def watch(self, call: Call, payload: bytes) -> AsyncIterator[bytes]:
        """Answer now and at every change, until draining: a watcher must never hold up the drain."""
        service = parse(HealthCheckRequest, payload).service
        sent = None
        while True:
            changed = self._state.changed()
            status = self._status(service)
            if status != sent:
                sent = status
                yield HealthCheckResponse(status=status).SerializeToString()
                if self._state.changed() is not changed:
                    continue
            if self._state.is_draining:
                return
            await changed.wait()
