"""Which calls are traced, and what their spans say."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.domain.decision import Decision, Question
from gateway.errors import PromptRejected
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import Call, Kind, Method
from gateway.tracing import Tracing
from perf.processes import ROOT
from protos import decide_pb2
from protos.contract.given import Given
from tests.gateway.deployment import PATIENCE_S, Deployment
from tests.gateway.stories import run, start

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SECRET = "the caller's secret"


class Answers:
    """A request path that answers, or fails, as a test wants."""

    draining = False

    def __init__(self) -> None:
        self.answer = Decision("d-1", decide_pb2.ARM_CANARY, "", 7, 0, "allow", 0.5, queue_us=3, engine_us=5)
        self.error: BaseException | None = None

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(0)
        return self.answer

    def __getattr__(self, name: str) -> Any:
        return lambda *_: name


@dataclass
class Traced:
    """A method table of one unary method and one stream, each of which makes decisions."""

    ratio: float = 0.0
    answers: Answers = field(default_factory=Answers)

    def __post_init__(self) -> None:
        self._memory = InMemorySpanExporter()
        tracing = Tracing(SimpleSpanProcessor(self._memory), ratio=self.ratio, gateway_id="g")
        gateway = tracing.gateway(cast(Gateway, self.answers))
        question = Question("brand", Given.of_text(SECRET), SECRET)

        async def unary(call: Call, payload: bytes) -> bytes:
            async with asyncio.TaskGroup() as group:
                for _ in payload:
                    group.create_task(gateway.decide(question, None, None))
            return payload

        async def stream(call: Call, payload: bytes) -> AsyncIterator[bytes]:
            for _ in payload:
                await gateway.decide(question, None, None)
                yield b"x"

        rows = (Method("/s.S/Unary", Kind.UNARY, unary), Method("/s.S/Stream", Kind.SERVER_STREAM, stream))
        self._unary, self._stream = (cast(Any, method.handler) for method in tracing.methods(rows))

    def unary(self, payload: bytes = b"1", **metadata: str) -> bytes:
        async def call() -> bytes:
            return cast(bytes, await self._unary(Call("/s.S/Unary", metadata), payload))

        return asyncio.run(call())

    async def stream(self, payload: bytes, take: int, **metadata: str) -> None:
        answers = self._stream(Call("/s.S/Stream", metadata), payload)
        for _ in range(take):
            await anext(answers)
        await answers.aclose()

    @property
    def spans(self) -> dict[str, list[ReadableSpan]]:
        found: dict[str, list[ReadableSpan]] = {}
        for span in self._memory.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


def test_a_call_that_is_not_sampled_makes_no_span_and_reaches_the_same_handler() -> None:
    traced = Traced(ratio=0.0)
    assert traced.unary(b"12") == b"12"
    asyncio.run(traced.stream(b"12", 2))
    assert traced.spans == {}


@pytest.mark.parametrize(("ratio", "parent", "n"), [(0.0, SAMPLED, 1), (1.0, UNSAMPLED, 0)], ids=["yes", "no"])
def test_the_caller_s_traceparent_decides(ratio: float, parent: str, n: int) -> None:
    traced = Traced(ratio)
    traced.unary(traceparent=parent)
    assert len(traced.spans.get("s.S/Unary", [])) == n


def test_a_span_belongs_to_the_caller_s_trace() -> None:
    traced = Traced()
    traced.unary(traceparent=SAMPLED)
    (span,) = traced.spans["s.S/Unary"]
    assert span.parent is not None
    assert (f"{span.parent.span_id:016x}", f"{span.context.trace_id:032x}") == (PARENT, TRACE)
    assert (span.kind, span.attributes) == (
        SpanKind.SERVER,
        {"rpc.system": "grpc", "rpc.service": "s.S", "rpc.method": "Unary"},
    )


@pytest.mark.parametrize(
    "parent",
    ["", "00", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", SAMPLED.upper()],
    ids=["empty", "short", "version", "trace", "span", "case"],
)
def test_a_traceparent_that_is_none_counts_as_none(parent: str) -> None:
    assert Traced(ratio=0.0).unary(traceparent=parent) == b"1"
    traced, silent = Traced(ratio=1.0), Traced(ratio=0.0)
    traced.unary(traceparent=parent)
    silent.unary(traceparent=parent)
    (span,) = traced.spans["s.S/Unary"]
    assert (span.parent, silent.spans) == (None, {})


def test_the_ratio_is_the_share_of_calls_that_are_traced() -> None:
    random.seed(1)
    traced = Traced(ratio=0.2)
    for _ in range(500):
        traced.unary()
    assert 70 <= len(traced.spans["s.S/Unary"]) <= 130


def test_each_decision_of_a_call_has_its_stages_within_it() -> None:
    traced = Traced()
    traced.unary(b"12", traceparent=SAMPLED)
    (call,) = traced.spans["s.S/Unary"]
    assert len(traced.spans["decide"]) == 2
    for decision in traced.spans["decide"]:
        assert decision.parent == call.context
        attributes = dict(decision.attributes or {})
        assert attributes["interlock.arm"] == "ARM_CANARY"
        assert attributes["interlock.generation"] == 7
        assert attributes["interlock.specialist"] == "brand"
        assert "interlock.fallback" not in attributes
        stages = [s for n in ("admit", "queue", "engine") for s in traced.spans[n] if s.parent == decision.context]
        assert [s.name for s in stages] == ["admit", "queue", "engine"]
        assert stages[0].start_time == decision.start_time
        for before, after in zip(stages, stages[1:], strict=False):
            assert before.end_time is not None and after.start_time is not None
            assert before.end_time <= after.start_time


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_no_stage_ends_before_it_began_whatever_the_worker_says(queue_us: int, engine_us: int) -> None:
    traced = Traced()
    traced.answers.answer = traced.answers.answer._replace(queue_us=queue_us, engine_us=engine_us)
    traced.unary(traceparent=SAMPLED)
    for spans in traced.spans.values():
        assert all(s.start_time is not None and s.end_time is not None and s.start_time <= s.end_time for s in spans)


def test_a_fallback_names_its_reason_and_claims_no_engine_time() -> None:
    traced = Traced()
    traced.answers.answer = traced.answers.answer._replace(fallback=decide_pb2.FALLBACK_REASON_NO_TIME)
    traced.unary(traceparent=SAMPLED)
    (decision,) = traced.spans["decide"]
    assert (decision.attributes or {})["interlock.fallback"] == "FALLBACK_REASON_NO_TIME"
    assert "engine" not in traced.spans


def test_an_error_is_named_by_its_class_and_no_span_quotes_the_caller() -> None:
    traced = Traced()
    traced.answers.error = PromptRejected(SECRET)
    with pytest.raises(ExceptionGroup):
        traced.unary(traceparent=SAMPLED)
    (decision,) = traced.spans["decide"]
    assert decision.status.status_code is StatusCode.ERROR
    assert (decision.attributes or {})["error.type"] == "PromptRejected"
    assert traced.spans["s.S/Unary"][0].status.status_code is StatusCode.ERROR
    assert not any(SECRET in span.to_json() for spans in traced.spans.values() for span in spans)


def test_a_stream_that_is_left_early_ends_its_span_without_an_error() -> None:
    traced = Traced()
    asyncio.run(traced.stream(b"123", take=2, traceparent=SAMPLED))
    (span,) = traced.spans["s.S/Stream"]
    assert span.attributes is not None
    assert (span.attributes["interlock.messages"], span.attributes["interlock.caller_left"]) == (2, True)
    assert span.status.status_code is StatusCode.UNSET
    assert all(decision.parent == span.context for decision in traced.spans["decide"])


def test_what_is_not_a_decision_goes_straight_to_the_gateway() -> None:
    answers = Answers()
    tracing = Tracing(SimpleSpanProcessor(InMemorySpanExporter()), ratio=1.0, gateway_id="g")
    gateway = tracing.gateway(cast(Gateway, answers))
    names = ("generate", "report_outcome", "task", "specialists", "statistics", "is_ready", "is_ready_for")
    assert [getattr(gateway, name)() for name in names] == list(names)
    assert gateway.draining is False
    answers.draining = True
    assert gateway.draining is True


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Take OTLP over HTTP on a free port."""
    taken: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            taken.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
    server.shutdown()
    thread.join(PATIENCE_S)
    server.server_close()


@pytest.mark.parametrize("front", ["envoy", "grpcio"])
def test_a_gateway_sends_the_spans_of_sampled_calls_before_it_ends(tmp_path: Path, front: str) -> None:
    if front == "envoy":
        pytest.importorskip("envoy")
    with collector() as (url, taken):

        async def story(deployment: Deployment) -> None:
            deployment.settings |= {"front": front, "trace_endpoint": url, "trace_ratio": 1.0}
            await start(deployment)
            await deployment.decide("one", decision_id="d-traced")
            deployment.kill("gateway", 15)

        run(tmp_path, story)
    spans = [s for request in taken for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
    (decision,) = [s for s in spans if s.name == "decide" and "d-traced" in str(s.attributes)]
    (call,) = [s for s in spans if s.span_id == decision.parent_span_id]
    assert call.name == "interlock.v1.DecisionService/Decide"
    assert {s.name for s in spans if s.parent_span_id == decision.span_id} == {"admit", "queue", "engine"}


@pytest.mark.parametrize(
    ("hidden", "endpoint", "said"),
    [
        ("opentelemetry", "http://127.0.0.1:4318", "without opentelemetry"),
        ("nothing", "collector:4318", "expected an HTTP URL"),
    ],
    ids=["libraries", "endpoint"],
)
def test_tracing_that_cannot_be_had_is_refused_in_a_sentence(
    tmp_path: Path, hidden: str, endpoint: str, said: str
) -> None:
    names = ("bundles_dir", "capture_dir", "state_dir", "operators", "plan_key")
    lines = [f'{name} = "x"' for name in ("deployment", *names)]
    lines += ['front = "envoy"', 'worker_sockets = ["w"]', f'trace_endpoint = "{endpoint}"']
    (tmp_path / "interlock.toml").write_text("[gateway]\n" + "\n".join(lines))
    program = f"import sys; sys.modules[{hidden!r}] = None; from gateway.process import main; main()"
    command = [sys.executable, "-c", program, "--config", str(tmp_path / "interlock.toml")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "gateway.trace_endpoint" in ended.stderr and said in ended.stderr
