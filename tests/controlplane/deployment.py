"""All three processes as a user runs them, on simulated engines: real sockets, real database, real signatures."""

import asyncio
import copy
import itertools
import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from controlplane import worker_socket
from controlplane.packs.registry import load_pack
from protos import control_pb2, control_pb2_grpc, decide_pb2, decide_pb2_grpc
from protos.contract.attestation import Approval, generate_key, read_private, sign_approval
from protos.contract.bundle import BundleStore
from protos.contract.digest import canonical_json, digest_bytes, parse_json_object
from tests.processes import Processes

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
SPECIALIST = "topics"
PACK = f"{Path(__file__).parent / SPECIALIST}/"  # reads nothing, and imports nothing that takes seconds


class Deployment(Processes):
    """All three processes. Use as an async context manager."""

    def __init__(self, root: Path, **control: Any) -> None:
        super().__init__(root, PATIENCE_S)
        self.pack = load_pack(PACK)
        self.store = BundleStore(root / "bundles")
        self.ports: dict[str, int] = {"control": 0, "gateway": 0}
        generate_key(root / "plan.key")
        generate_key(root / "ann.key")
        person = {"person": "ann", "roles": ["approver"], "keys": [(root / "ann.key.pub").read_text().strip()]}
        operators = {"version": 1, "required_approvals": 1, "people": [person]}
        (root / "operators.json").write_bytes(canonical_json(operators))
        self.control_settings = {"database": "sqlite:///control.db", "tick_s": 0.1, "lease_s": 4.0, **control}
        self.more_settings = ""
        self._examples = itertools.cycle(self.pack.held_out(200, 7) + self.pack.held_out_shifted(100, 7))
        self._callers = itertools.count()

    def copied(self, root: Path) -> "Deployment":
        """Return another that goes on from where this one, whose processes have ended, stands."""
        shutil.copytree(self.root, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
        made = copy.copy(self)
        made.root, made.store = root, BundleStore(root / "bundles")
        made.processes, made.ports = {}, {"control": 0, "gateway": 0}
        return made

    def bundle(self, accuracy: float, seed: int = 0, author: str = "trainer") -> str:
        """Add a simulated bundle that was trained on data this control plane keeps."""
        data = "".join(
            json.dumps({"text": e.text, "label": e.label, "slice": e.slice}) + "\n"
            for e in self.pack.training_set(300, 1)
        ).encode()
        kept = self.root / "artifacts" / "sha256" / digest_bytes(data)[7:]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        manifest = self.store.add(
            task=self.pack.task,
            engine={"backend": "simulator", "accuracy": accuracy, "seed": seed},
            contents={},
            base={},
            lineage={"author": author, "dataset": digest_bytes(data)},
        )
        return manifest.digest

    def _write_config(self) -> None:
        rollout = {
            "stages_bp": [2000, 5000],
            "shadow_bp": 5000,
            "cost_margin": 0.3,
            "mistake_margin": 0.3,
            "failure_margin": 0.3,
            "alpha": 0.05,
        }
        text = f"""
[gateway]
deployment = "test"
listen = "127.0.0.1:{self.ports["gateway"]}"
control = "127.0.0.1:{self.ports["control"]}"
worker_sockets = ["worker.sock"]
bundles_dir = "bundles"
capture_dir = "capture"
state_dir = "state"
operators = "operators.json"
plan_key = "plan.key.pub"
capture_flush_s = 0.02
report_interval_s = 0.1
drain_delay_s = 0.1

[controlplane]
deployment = "test"
listen = "127.0.0.1:{self.ports["control"]}"
bundles_dir = "bundles"
capture_dir = "capture"
operators = "operators.json"
plan_key = "plan.key"
""" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.control_settings.items())
        text += "\n[controlplane.rollout]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in rollout.items())
        text += "\n[controlplane.training]\nheld_out = 60\nforeground = true\n"
        # No window is ever complete: drift has tests of its own, and embedding texts would take a core from these.
        text += "\n[controlplane.drift]\nreference = 100000\n"
        text += f"\n[[controlplane.specialists]]\npack = {json.dumps(PACK)}\n{self.more_settings}"
        (self.root / "interlock.toml").write_text(text)

    async def __aenter__(self) -> Self:
        try:
            self.start_worker()
            await self.start("control")
            await self.start("gateway")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def start_worker(self) -> None:
        """Start the engine worker."""
        self._run("worker", "gateway.worker", "--socket", "worker.sock", "--bundles", "bundles", "--allow-faults")

    async def start(self, name: str) -> None:
        """Start the gateway or the control plane, on the port it had before, and wait until it listens."""
        self._write_config()
        self._run(name, {"gateway": "gateway", "control": "controlplane"}[name], "--config", "interlock.toml")
        self.ports[name] = int(await self.log_value(name, "port="))

    def _run(self, name: str, module: str, *arguments: str) -> None:
        environment = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.spawn(name, [sys.executable, "-m", module, *arguments], environment)

    async def ask(self, method: str, request: Any) -> Any:
        """Call the control plane; waits for one that is starting or whose database is not to be had just now."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.ports['control']}") as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        return await getattr(stub, method)(request, timeout=PATIENCE_S, wait_for_ready=True)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                    await asyncio.sleep(0.1)

    async def until(self, method: str, request: Any, is_reached: Callable[[Any], bool], *, calls: int = 0) -> Any:
        """Ask until the answer is as wanted, with so many calls of traffic before each time but the first."""
        answer = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    answer = await self.ask(method, request)
                    if is_reached(answer):
                        return answer
                    await asyncio.sleep(0.1)  # every answer takes a dozen queries
                    if calls:
                        await self.drive(calls)
        except TimeoutError:
            logs = "".join((self.root / f"{name}.log").read_text()[-3000:] for name in ("control", "gateway"))
            raise AssertionError(f"{method} never got there: {answer}\n{logs}") from None

    async def evaluated(self, bundle: str) -> control_pb2.Job:
        """Have a bundle evaluated and return the finished job."""
        request = control_pb2.EvaluateRequest(
            specialist=SPECIALIST, bundle_digest=bundle, operation_id=uuid.uuid4().hex
        )
        job = await self.ask("Evaluate", request)
        wanted = control_pb2.GetJobRequest(id=job.id)
        found: control_pb2.Job = await self.until("GetJob", wanted, lambda j: j.state in ("done", "failed"))
        assert found.state == "done", found.message
        return found

    async def begun(self, bundle: str) -> str:
        """Start a rollout and return its id."""
        request = control_pb2.StartRolloutRequest(
            specialist=SPECIALIST, bundle_digest=bundle, started_by="ops", operation_id=uuid.uuid4().hex
        )
        return str((await self.ask("StartRollout", request)).id)

    async def rollout(
        self, name: str, is_reached: Callable[[control_pb2.Rollout], bool], *, calls: int = 0
    ) -> control_pb2.Rollout:
        """Wait until a rollout is as wanted, with traffic as ``until`` has it."""
        wanted = control_pb2.GetRolloutRequest(id=name)
        found: control_pb2.Rollout = await self.until("GetRollout", wanted, is_reached, calls=calls)
        return found

    async def signed(self, name: str, **changes: Any) -> control_pb2.SubmitApprovalRequest:
        """Draft and sign an approval of a rollout's next step."""
        draft = await self.ask("DraftApproval", control_pb2.DraftApprovalRequest(rollout=name))
        payload = parse_json_object(draft.statement)
        now = int(time.time())
        statement = replace(
            Approval.from_statement(canonical_json(payload)),
            **{
                "person": "ann",
                "reason": "looks right",
                "nonce": uuid.uuid4().hex,
                "not_before": now,
                "expires": now + 600,
                **changes,
            },
        )
        envelope = sign_approval(statement, read_private(self.root / "ann.key"))
        return control_pb2.SubmitApprovalRequest(rollout=name, envelope=envelope)

    async def approve(self, name: str, **changes: Any) -> control_pb2.Rollout:
        """Sign and submit."""
        answer: control_pb2.Rollout = await self.ask("SubmitApproval", await self.signed(name, **changes))
        return answer

    async def approved_into(self, phase: str, name: str) -> control_pb2.Rollout:
        """Sign, submit, and keep traffic coming until the rollout is in that phase and its plan in force.

        A gate that passed by a hair may want a few more observations before the approval is acted on.
        """
        await self.approve(name)
        found = await self.driven_until(name, lambda r: r.phase == phase)
        await self.in_force()
        return found

    async def in_force(self) -> control_pb2.PlanStatus:
        """Wait until the newest plan that was not refused is applied, and return every plan."""

        def is_applied(status: control_pb2.PlanStatus) -> bool:
            standing = [p for p in status.plans if p.state != "refused"]
            return bool(standing) and standing[-1].state == "applied"

        found: control_pb2.PlanStatus = await self.until(
            "GetPlanStatus", control_pb2.GetPlanStatusRequest(), is_applied
        )
        return found

    async def first_primary(self, accuracy: float = 0.8) -> str:
        """Bring up the specialist's first bundle."""
        bundle = self.bundle(accuracy)
        await self.evaluated(bundle)
        name = await self.begun(bundle)
        await self.rollout(name, lambda r: r.needs_approval_for == "bootstrap")
        await self.approve(name)
        await self.in_force()
        return bundle

    async def serving(self) -> None:
        """Wait until engines answer."""
        async with asyncio.timeout(PATIENCE_S):
            while any(answer.fallback.used for answer in await self.drive(20)):
                await asyncio.sleep(0.1)

    async def drive(self, n: int, *, report: bool = True) -> list[decide_pb2.DecideResponse]:
        """Send requests with their outcomes, a few at a time."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.ports['gateway']}") as channel:
            stub = decide_pb2_grpc.DecisionServiceStub(channel)

            async def one() -> decide_pb2.DecideResponse:
                example, caller = next(self._examples), next(self._callers)
                request = decide_pb2.DecideRequest(
                    specialist=SPECIALIST,
                    input=decide_pb2.Input(text=example.text),
                    routing_key=f"caller-{caller}",
                    decision_id=f"d-{caller}",
                )
                answer: decide_pb2.DecideResponse = await stub.Decide(request, timeout=PATIENCE_S, wait_for_ready=True)
                if report:
                    said = decide_pb2.ReportOutcomeRequest(
                        specialist=SPECIALIST, decision_id=answer.decision_id, label=example.label
                    )
                    await stub.ReportOutcome(said, timeout=PATIENCE_S)
                return answer

            found: list[decide_pb2.DecideResponse] = []
            for _ in range(0, n, 20):
                found += await asyncio.gather(*(one() for _ in range(20)))
            return found

    async def driven_until(self, name: str, is_reached: Callable[[control_pb2.Rollout], bool]) -> control_pb2.Rollout:
        """Keep traffic coming until a rollout is as wanted, no faster than the control plane answers.

        On a busy machine callers who never wait would take the time that it needs to look at what they sent.
        """
        return await self.rollout(name, is_reached, calls=40)

    async def inject(self, bundle: str, kind: int) -> None:
        """Break a bundle in the worker, on purpose."""
        await worker_socket.inject(self.root / "worker.sock", bundle, kind)
