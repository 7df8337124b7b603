"""Every engine there is, brought up so that one battery can ask them all: workers as processes, fakes on real ports."""

import asyncio
import contextlib
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smg_grpc_proto import sglang_scheduler_pb2_grpc, trtllm_service_pb2_grpc

from gateway.engines import settings
from gateway.engines.link import WorkerLink
from gateway.engines.ports import RemoteEngine
from gateway.engines.remote import RemoteLink
from protos import oip_pb2_grpc
from protos.contract.bundle import BundleStore
from protos.contract.servers import RemoteSettings
from protos.contract.task import TaskSpec
from tests.gateway.engines.fake_grpc import FakeSglang, FakeTrtllm, serve
from tests.gateway.engines.fake_model import MODEL, FakeModel, tokenizer_json
from tests.gateway.engines.fake_oip import FakeOip
from tests.gateway.engines.fake_openai import FakeOpenAi
from tests.tasks import TASK

ROOT = Path(__file__).parents[2]
TOKEN_TASK = replace(TASK, max_tokens=256)
TOKENIZER = {"tokenizer.json": tokenizer_json().encode()}
PATIENCE_S = 30.0
Stop = Callable[[], Awaitable[None]]
Start = Callable[[FakeModel, int], Awaitable[tuple[int, Stop]]]


@dataclass(frozen=True)
class Case:
    """One engine: its kind, what a bundle on it says, and the server behind it.

    Attributes:
        max_batch: Texts that may share a request.
        scale: ``vocabulary`` when log-probabilities are the whole vocabulary's, ``labels`` when among labels.
    """

    kind: str
    engine: dict[str, Any]
    start: Start
    exactness: str = "exact"
    scale: str = "labels"
    reads_tokens: bool = False
    generates: bool = False
    max_batch: int = 1

    @property
    def task(self) -> TaskSpec:
        return replace(TOKEN_TASK, label_logprobs=self.exactness)


def _grpc(add: Any, make: Callable[[FakeModel], Any]) -> Start:
    async def start(model: FakeModel, port: int) -> tuple[int, Stop]:
        server, found = await serve(add, make(model), port)
        return found, lambda: server.stop(0)

    return start


def http(preset: str, **options: bool) -> Start:
    async def start(model: FakeModel, port: int) -> tuple[int, Stop]:
        server = FakeOpenAi(model, preset, **options)
        return await server.start(port), server.stop

    return start


def _oip(preset: str, output: str = "probabilities", **engine_settings: Any) -> Case:
    start = _grpc(oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, lambda model: FakeOip(model, preset, output))
    engine = {"backend": "oip", "preset": preset, "model": MODEL, **engine_settings}
    if output != "probabilities":
        engine |= {"output": output, "scores": output}
    is_llm = preset == "triton-llmapi"
    return Case(
        "oip",
        engine,
        start,
        exactness="topk" if is_llm else "exact",
        scale="chosen" if is_llm else "labels",
        reads_tokens=preset == "ovms",
        generates=is_llm,
    )


def _openai(preset: str, method: str, scale: str) -> Case:
    engine = {"backend": "openai-http", "preset": preset, "method": method, "model": MODEL}
    is_decoder = method in ("completions", "score")
    return Case(
        "openai-http",
        engine,
        http(preset),
        exactness="topk" if method == "completions" else "exact",
        scale=scale,
        reads_tokens=True,
        generates=is_decoder,
    )


CASES: dict[str, Case] = {
    "oip generic": _oip("generic"),
    "oip generic logits": _oip("generic", "logits"),
    "oip mlserver": _oip("mlserver"),
    "oip ovms": _oip("ovms", input="input_ids"),
    "oip triton-llmapi": _oip("triton-llmapi"),
    "openai trtllm-serve": _openai("trtllm-serve", "completions", "vocabulary"),
    "openai trtllm-serve embeddings": _openai("trtllm-serve", "embeddings", "labels"),
    "openai vllm": _openai("vllm", "score", "vocabulary"),
    "openai vllm completions": _openai("vllm", "completions", "vocabulary"),
    "openai vllm classify": _openai("vllm", "classify", "labels"),
    "openai sglang": _openai("sglang", "score", "vocabulary"),
    "openai sglang classify": _openai("sglang", "classify", "labels"),
    "openai sglang completions": _openai("sglang", "completions", "vocabulary"),
    "trtllm-grpc": Case(
        "trtllm-grpc",
        {"backend": "trtllm-grpc", "model": MODEL},
        _grpc(trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server, FakeTrtllm),
        exactness="topk",
        scale="vocabulary",
        reads_tokens=True,
        generates=True,
    ),
    "sglang-grpc": Case(
        "sglang-grpc",
        {"backend": "sglang-grpc", "model": MODEL},
        _grpc(sglang_scheduler_pb2_grpc.add_SglangSchedulerServicer_to_server, FakeSglang),
        scale="vocabulary",
        reads_tokens=True,
        generates=True,
    ),
}
# The same engines asked for many texts at a time.
CASES |= {
    f"{name} gathered": replace(case, max_batch=16)
    for name, case in CASES.items()
    if case.kind in ("oip", "openai-http") and name not in ("oip generic logits", "openai sglang classify")
}


class Rig:
    """A link to a running engine, with the model behind it and a store of bundles."""

    def __init__(self, case: Case, link: RemoteLink, store: BundleStore, model: FakeModel) -> None:
        self.case = case
        self.link = link
        self.store = store
        self.model = model
        self.stop: Stop | None = None
        self.port = 0

    def bundle(self, contents: dict[str, bytes] | None = None, task: TaskSpec | None = None, **changes: Any) -> str:
        """Add a bundle for this engine."""
        return self.store.add(
            task=task or self.case.task,
            engine={**self.case.engine, **changes},
            contents=TOKENIZER if contents is None else contents,
            base={},
            lineage={"author": "trainer"},
        ).digest

    async def loaded(self) -> str:
        """Load a bundle, and forget what loading asked of the model."""
        bundle = self.bundle()
        await self.link.load(bundle)
        self.model.started.clear()
        self.model.requests.clear()
        return bundle

    def expected(self, text: str) -> list[float]:
        """What the model says of the labels, as log-probabilities."""
        rows = self.model.label_logprobs(text)
        if self.case.scale == "vocabulary":
            return rows
        if self.case.scale == "chosen":
            best = max(rows)
            rest = min(best, math.log(-math.expm1(best)))
            return [row if row == best else rest for row in rows]
        return [math.log(p) for p in self.model.label_probabilities(text)]

    async def start(self) -> None:
        """Start the server behind the link, again on its old port."""
        self.port, self.stop = await self.case.start(self.model, self.port)

    async def until_down(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.link.connected.is_set():
                await asyncio.sleep(0.005)

    async def until_ready(self, bundle: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while bundle not in self.link.ready:
                await asyncio.sleep(0.005)


def make_engine(kind: str, port: int, max_batch: int = 1, connections: int = 1) -> RemoteEngine:
    address = f"http://127.0.0.1:{port}" if kind == "openai-http" else f"127.0.0.1:{port}"
    return settings.make_engine(
        RemoteSettings("engine", kind, address, None, None, (), 256, connections, max_batch=max_batch)
    )


@contextlib.asynccontextmanager
async def remote(
    name: str,
    root: Path,
    max_in_flight: int = 256,
    case: Case | None = None,
    health_interval_s: float = 0.02,
    probe_interval_s: float = 3600.0,
) -> AsyncIterator[Rig]:
    """Bring up one remote engine, or another case of it."""
    case = case or CASES[name]
    model, store = FakeModel(), BundleStore(root)
    port, stop = await case.start(model, 0)
    link = RemoteLink(
        make_engine(case.kind, port, case.max_batch, connections=2),
        name=name,
        kind=case.kind,
        models=(MODEL,),
        store=store,
        max_in_flight=max_in_flight,
        health_interval_s=health_interval_s,
        probe_interval_s=probe_interval_s,
    )
    rig = Rig(case, link, store, model)
    rig.port, rig.stop = port, stop
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await link.connected.wait()
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert rig.stop is not None
        await rig.stop()


@contextlib.asynccontextmanager
async def worker(root: Path, *options: str, environment: dict[str, str] | None = None) -> AsyncIterator[WorkerLink]:
    """Bring up a worker process and a link to it."""
    socket = root / "w.sock"
    command = [sys.executable, "-m", "gateway.worker", "--socket", str(socket), "--bundles", str(root / "bundles")]
    process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    link = WorkerLink(str(socket))
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await link.connected.wait()
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE_S)
