"""OpenTelemetry spans of a sampled share of calls. Without a ``trace_endpoint`` nothing here is even imported.

A call that is not sampled costs a look into its metadata and a random number. One whose caller sends a W3C
``traceparent`` is sampled as that says. Spans never carry inputs, routing keys or messages of errors.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.domain.decision import Decision, Question
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import BidiStream, Call, Kind, Method, ServerStream, Unary, closing
from gateway.serving.statistics import SpecialistStatistics
from protos import decide_pb2
from protos.contract.task import TaskSpec

QUEUED_SPANS = 2048  # those beyond are dropped: a collector that is away costs no memory
EXPORT_S = 2.0  # for one batch, retries included; also the most that a stop waits for a collector that is away
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_PROPAGATOR = TraceContextTextMapPropagator()
_span: ContextVar[Span | None] = ContextVar("span", default=None)  # of the call, None when it is not sampled


class Tracing:
    """Makes spans and sends them away from its own thread."""

    def __init__(self, processor: SpanProcessor, *, ratio: float, gateway_id: str) -> None:
        # Whether a call is sampled is decided here, before a span would cost anything.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": "interlock-gateway", "service.instance.id": gateway_id}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("interlock")
        self._ratio = ratio

    @classmethod
    def to_collector(cls, endpoint: str, *, ratio: float, gateway_id: str) -> "Tracing":
        """Send spans in batches to an OTLP/HTTP collector's URL, such as http://127.0.0.1:4318/v1/traces."""
        exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)
        return cls(BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS), ratio=ratio, gateway_id=gateway_id)

    def methods(self, methods: Iterable[Method]) -> tuple[Method, ...]:
        """Wrap the handlers of a method table."""
        return tuple(replace(method, handler=self._traced(method)) for method in methods)

    def gateway(self, gateway: Gateway) -> Gateway:
        """Wrap the request path, so that each decision of a sampled call gets its own spans."""
        return _TracedGateway(gateway, self._tracer)

    def close(self) -> None:
        """Send what is left and stop."""
        self._provider.shutdown()

    def _traced(self, method: Method) -> Unary | ServerStream | BidiStream:
        if method.kind is Kind.UNARY:
            return self._unary(method.path, cast(Unary, method.handler))
        # Both kinds of stream pass their request on as it is.
        return self._stream(method.path, cast(ServerStream, method.handler))

    def _unary(self, path: str, handler: Unary) -> Unary:
        async def trace(call: Call, payload: bytes) -> bytes:
            span = self._begin(path, call)
            token = _span.set(span)
            try:
                return await handler(call, payload)
            except BaseException as error:
                _fail(span, error)
                raise
            finally:
                span.end()
                _span.reset(token)

        def handle(call: Call, payload: bytes) -> Awaitable[bytes]:
            return trace(call, payload) if self._is_sampled(call) else handler(call, payload)

        return handle

    def _stream(self, path: str, handler: ServerStream) -> ServerStream:
        async def trace(call: Call, request: bytes) -> AsyncIterator[bytes]:
            span = self._begin(path, call)
            token = _span.set(span)
            messages = 0
            try:
                async with closing(handler(call, request)) as answers:
                    async for answer in answers:
                        messages += 1
                        yield answer
            except BaseException as error:
                _fail(span, error)
                raise
            finally:
                span.set_attribute("interlock.messages", messages)
                span.end()
                _span.reset(token)

        def handle(call: Call, request: bytes) -> AsyncIterator[bytes]:
            return trace(call, request) if self._is_sampled(call) else handler(call, request)

        return handle

    def _is_sampled(self, call: Call) -> bool:
        parent = call.metadata.get("traceparent")
        found = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
        if found is not None:
            return bool(int(found[1], 16) & 1)
        return random.random() < self._ratio  # noqa: S311  drawn for cost, not for secrecy

    def _begin(self, path: str, call: Call) -> Span:
        carrier = {name: value for name, value in call.metadata.items() if isinstance(value, str)}
        service, _, name = path[1:].partition("/")
        return self._tracer.start_span(
            path[1:],
            context=_PROPAGATOR.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )


class _TracedGateway:
    """A gateway whose decisions become spans when the call they belong to is sampled."""

    def __init__(self, gateway: Gateway, tracer: Tracer) -> None:
        self._gateway = gateway
        self._tracer = tracer
        # What is not traced goes straight to the gateway.
        self.generate: Callable[..., AsyncIterator[decide_pb2.GenerateChunk]] = gateway.generate
        self.report_outcome: Callable[[decide_pb2.ReportOutcomeRequest], bool] = gateway.report_outcome
        self.task: Callable[[str], TaskSpec] = gateway.task
        self.specialists: Callable[[], tuple[str, ...]] = gateway.specialists
        self.statistics: Callable[[str], SpecialistStatistics] = gateway.statistics
        self.is_ready: Callable[[], bool] = gateway.is_ready
        self.is_ready_for: Callable[[str], bool] = gateway.is_ready_for

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping."""
        return self._gateway.draining

    def decide(
        self, question: Question, deadline: float | None, arrived: float | None
    ) -> Coroutine[Any, Any, Decision]:
        """Decide one input."""
        parent = _span.get()
        if parent is None:
            return self._gateway.decide(question, deadline, arrived)
        return self._traced(parent, question, deadline, arrived)

    async def _traced(
        self, parent: Span, question: Question, deadline: float | None, arrived: float | None
    ) -> Decision:
        began = time.time_ns()
        span = self._tracer.start_span("decide", context=set_span_in_context(parent), start_time=began)
        span.set_attribute("interlock.specialist", question.specialist)
        try:
            answer = await self._gateway.decide(question, deadline, arrived)
        except BaseException as error:
            _fail(span, error)
            span.end()
            raise
        # The clock of the spans' edges may be set back meanwhile; no span ends before it began.
        ended = max(began, time.time_ns())
        span.set_attributes(
            {
                "interlock.decision_id": answer.decision_id,
                "interlock.arm": decide_pb2.Arm.Name(answer.arm),
                "interlock.bundle": answer.bundle_digest,
                "interlock.generation": answer.plan_generation,
                "interlock.test": question.test,
            }
        )
        if answer.fallback:
            span.set_attribute("interlock.fallback", decide_pb2.FallbackReason.Name(answer.fallback))
        else:
            self._add_stages(span, answer, began, ended)
        span.end(ended)
        return answer

    def _add_stages(self, span: Span, answer: Decision, began: int, ended: int) -> None:
        """Divide a decision into what came before the worker, its queue and its engine.

        The worker reports durations, not moments: its part is placed in the middle of what is left, as if
        the way there took as long as the way back.
        """
        queue, engine = answer.queue_us * 1000, answer.engine_us * 1000
        at_worker = began + max(0, ended - began - queue - engine) // 2
        stages = (("admit", began, at_worker), ("queue", at_worker, at_worker + queue))
        within = set_span_in_context(span)
        for name, start, end in (*stages, ("engine", at_worker + queue, at_worker + queue + engine)):
            self._tracer.start_span(name, context=within, start_time=start).end(max(start, min(end, ended)))


def _fail(span: Span, error: BaseException) -> None:
    """Note what ended a call, by its class: messages may quote a caller's input."""
    if isinstance(error, GeneratorExit | asyncio.CancelledError):
        span.set_attribute("interlock.caller_left", True)
        return
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
