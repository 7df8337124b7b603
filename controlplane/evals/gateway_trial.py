"""A real gateway with one bundle behind it, on this machine: what a caller would see, its deadline included.

The gateway is a throw-away deployment of its own. Its only approver is made with it and forgotten with it, and the
audience of that approval is this one trial: nothing signed here is worth anything anywhere else.
"""

import contextlib
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from controlplane.evals import helpers
from controlplane.evals.cpu import cpu_seconds
from controlplane.evals.engine import WORKER, EngineFailed
from protos import decide_pb2, decide_pb2_grpc, traffic_pb2
from protos.contract.attestation import Approval, Operator, Operators, public_text, sign_approval
from protos.contract.bundle import BundleStore, Manifest
from protos.contract.digest import canonical_json
from protos.contract.draws import BASIS_POINTS
from protos.contract.memory_ledger import MemoryLedger
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import no_split_digest, sign_plan, to_split_digest
from protos.contract.servers import NotDeclared, RemoteSettings, servers_of

GATEWAY = (sys.executable, "-m", "gateway")
START_S = 90.0
WORKER_SOCKET = "w.sock"
_PERSON = "interlock-eval"
_ZERO = "sha256:" + "0" * 64
_PORT = re.compile(r"gateway_ready\b.*?\bport=(\d+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TELL = 32


@dataclass(frozen=True, slots=True)
class Trial:
    """What callers saw, in the order of the inputs.

    Attributes:
        decisions: Indices into the task's decisions, fallbacks included, shape [n]; -1 where a call failed.
        latencies_ms: From sending a request to reading its answer, shape [n].
        fallbacks: Reason to count; ``failures``: gRPC status to count.
        budget_ms: The time each caller gave.
        cpu_ms: CPU time of gateway, front and worker a decision, asked one after the other; a server's elsewhere is not
            among it. None where it is unknown.
    """

    decisions: NDArray[np.int64]
    latencies_ms: NDArray[np.float64]
    fell_back: NDArray[np.bool_]
    fallbacks: dict[str, int]
    failures: dict[str, int]
    budget_ms: float
    cpu_ms: float | None = None

    @property
    def in_time(self) -> NDArray[np.bool_]:
        """Whether any answer came within the budget, fallbacks included, shape [n]."""
        return np.asarray((self.latencies_ms <= self.budget_ms) & (self.decisions >= 0))

    @property
    def decided_in_time(self) -> NDArray[np.bool_]:
        """Whether the engine's own answer came within the budget, shape [n]."""
        return np.asarray(self.in_time & ~self.fell_back)


class GatewayTrial:
    """One gateway, one bundle, and its engine: a worker, or the declared servers it belongs to. Ends what it starts."""

    def __init__(self, bundles: Path, digest: str, front: str = "auto", engines: Sequence[RemoteSettings] = ()) -> None:
        self._bundles = bundles.resolve()
        self._manifest = BundleStore(self._bundles).manifest(digest)
        self._engines = engines
        self._front = front
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-eval-")))
            servers = self._servers()
            _write_deployment(self._folder, self._bundles, self._manifest, servers)
            stack.callback(self._stop)
            if not servers:
                socket = str(self._folder / WORKER_SOCKET)
                self._start("worker", [*WORKER, "--socket", socket, "--bundles", str(self._bundles)])
            self._start("gateway", [*GATEWAY, "--config", str(self._folder / "gateway.toml"), "--front", self._front])
            self.address = f"127.0.0.1:{self._port()}"
            channel = stack.enter_context(grpc.insecure_channel(self.address))
            self._stub = decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]
            self._warm()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def ask(
        self,
        inputs: Sequence[decide_pb2.Input],
        budget_us: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Trial:
        """Ask for one decision after the other, each caller giving ``budget_us``."""
        decisions = np.full(len(inputs), -1, dtype=np.int64)
        latencies = np.zeros(len(inputs))
        fell_back = np.zeros(len(inputs), dtype=np.bool_)
        fallbacks: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        names = self._manifest.task.decisions
        before = self._spent()
        for i, given in enumerate(inputs):
            began = time.perf_counter()
            try:
                answer = self.answer(given, budget_us)
            except grpc.RpcError as error:
                failures[error.code().name] += 1
            else:
                decisions[i] = names.index(answer.decision)
                if answer.fallback.used:
                    fell_back[i] = True
                    name = decide_pb2.FallbackReason.Name(answer.fallback.reason)
                    fallbacks[name.removeprefix("FALLBACK_REASON_").lower()] += 1
            latencies[i] = 1000 * (time.perf_counter() - began)
            if i % _TELL == 0:
                progress(i)
        after = self._spent()
        cpu_ms = None if before is None or after is None or not len(inputs) else 1000 * (after - before) / len(inputs)
        return Trial(decisions, latencies, fell_back, dict(fallbacks), dict(failures), budget_us / 1000, cpu_ms)

    def answer(self, given: decide_pb2.Input, budget_us: int) -> decide_pb2.DecideResponse:
        """Ask for one decision; raises grpc.RpcError."""
        # Callers wait longer than they gave, so that how late an answer is can be seen.
        answer: decide_pb2.DecideResponse = self._stub.Decide(
            self._request(given, budget_us), timeout=10 * budget_us / 1e6 + 1
        )
        return answer

    def _servers(self) -> tuple[RemoteSettings, ...]:
        try:
            return servers_of(self._manifest, self._engines)
        except NotDeclared as error:
            raise EngineFailed(str(error)) from error

    def _spent(self) -> float | None:
        return cpu_seconds(process.pid for process in self._processes.values())

    def _request(self, given: decide_pb2.Input, budget_us: int) -> decide_pb2.DecideRequest:
        return decide_pb2.DecideRequest(
            specialist=self._manifest.task.name, input=given, budget_us=budget_us, test=True
        )

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = helpers.start(command, log)

    def _port(self) -> int:
        ends = time.monotonic() + START_S
        while not (found := _PORT.search(self._said("gateway"))):
            self._check_alive(ends)
            time.sleep(0.02)
        return int(found.group(1))

    def _warm(self) -> None:
        """Wait until the engine itself answers; which input is asked does not matter, only that it is no fallback."""
        ends = time.monotonic() + START_S
        given = decide_pb2.Input()
        task = self._manifest.task
        if len(task.fields) == 1 and task.fields[0].kind == "text":
            given.text = "warm"
        else:
            for wanted in task.fields:
                value = given.fields[wanted.name]
                setattr(value, wanted.kind, {"text": "warm", "number": 0.0, "integer": 0, "flag": False}[wanted.kind])
        while True:
            try:
                answer = self._stub.Decide(self._request(given, 5_000_000), timeout=10, wait_for_ready=True)
                if not answer.fallback.used:
                    return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise EngineFailed(f"gateway: {error.code().name}: {error.details()}") from error
            self._check_alive(ends)
            time.sleep(0.05)

    def _check_alive(self, ends: float) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise EngineFailed(f"{name} ended with {process.returncode}: {self._said(name)[-500:].strip()}")
        if time.monotonic() > ends:
            raise EngineFailed(f"gateway was not ready within {START_S:g} s: {self._said('gateway')[-500:].strip()}")

    def _said(self, name: str) -> str:
        return _COLOURS.sub("", (self._folder / f"{name}.log").read_text("utf-8", "replace"))

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            helpers.stop(process)


def _write_deployment(folder: Path, bundles: Path, manifest: Manifest, servers: Sequence[RemoteSettings]) -> None:
    """Write settings, keys and the one plan, signed and approved, as a gateway remembers its last good one."""
    audience = f"eval-{secrets.token_hex(8)}"
    plan_key, approver = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    name = manifest.task.name
    split = Split(name, manifest.digest, None, None, 0, 0, 0, 0, audience)
    now = int(time.time())
    approval = Approval(
        person=_PERSON,
        specialist=name,
        rollout=audience,
        step="bootstrap",
        bundle=manifest.digest,
        evidence=_ZERO,
        suite=_ZERO,
        from_split=no_split_digest(name),
        to_split=to_split_digest(split, BASIS_POINTS),
        ceiling_bp=BASIS_POINTS,
        audience=audience,
        not_before=now - 60,
        expires=now + 86_400,
        nonce=audience,
        author=manifest.author or "unknown",
        reason="measured by its own machine, for no caller",
    )
    offer = traffic_pb2.PlanOffer(
        plan=sign_plan(TrafficPlan(audience, 1, now, (split,), ()), plan_key),
        approvals=[sign_approval(approval, approver)],
    )
    people = (Operator(_PERSON, ("approver",), (public_text(approver.public_key()),)),)
    (folder / "state").mkdir()
    MemoryLedger(audience).prove(offer, plan_key)
    state = traffic_pb2.GatewayState(offer=offer, checkpoint=offer.checkpoint)
    (folder / "state" / "state.pb").write_bytes(state.SerializeToString())
    (folder / "operators.json").write_bytes(canonical_json(Operators(1, 1, people).to_json()))
    (folder / "plan.pub").write_text(public_text(plan_key.public_key()))
    settings: dict[str, Any] = {
        "deployment": audience,
        "listen": "127.0.0.1:0",
        "control": "",
        "worker_sockets": [] if servers else [WORKER_SOCKET],
        "engines": [one.to_json() for one in servers],
        "bundles_dir": str(bundles),
        "capture_dir": "capture",
        "state_dir": "state",
        "operators": "operators.json",
        "plan_key": "plan.pub",
    }
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    (folder / "gateway.toml").write_text("[gateway]\n" + "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, int):
        return str(value)
    # TOML's basic strings escape as JSON's do, but for DEL, which no path or name here holds.
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
