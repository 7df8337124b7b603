"""What a person at the demo's deployment does: type commands, sign, and wait for what comes of it."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from controlplane.demo.deployment import PERSON, DemoFailed, Deployment
from controlplane.demo.screen import Screen
from protos import control_pb2 as pb
from protos import control_pb2_grpc

STEP_S = 240.0  # the longest any step may take
JOB_S = 900.0  # and a child process, which takes only the time that nobody else wants
POLL_S = 0.2
TAKEN_BACK = ("rolled_back", "rejected")


class Operator:
    """Operates one specialist, by the command line where there is a command, and shows what it waits for."""

    def __init__(self, deployment: Deployment, specialist: str, screen: Screen) -> None:
        self._deployment = deployment
        self._name = specialist
        self._screen = screen
        self._channel = grpc.aio.insecure_channel(deployment.control)
        self._stub = control_pb2_grpc.ControlServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._known: set[str] = set()  # jobs that were followed to their end

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def command(self, *arguments: str) -> Any:
        """Run an ``interlock`` command, show it, and return what it printed as JSON."""
        root = f"{self._deployment.root}/"
        self._screen.command(*(a.replace(root, "") for a in arguments))
        return await self._deployment.cli(*arguments)

    async def approve(self, rollout: str, reason: str) -> Any:
        """Sign, and return the plan that the signature allows once it is in force: a newer one than any so far."""
        before = max((p.generation for p in await self.plans()), default=0)
        key = str(self._deployment.root / "keys" / "operator.key")
        await self.command("rollout", "approve", rollout, "--key", key, "--person", PERSON, "--reason", reason, "--yes")

        def applied(rows: Sequence[Any]) -> list[Any]:
            return [p for p in rows if p.generation > before and p.state == "applied"]

        return applied(await self.wait(self.plans, lambda rows: bool(applied(rows)), "a plan in force"))[-1]

    async def wait(
        self, ask: Callable[[], Any], is_reached: Callable[[Any], bool], what: str, limit_s: float = STEP_S
    ) -> Any:
        """Ask until the answer is as wanted, and return it; raises DemoFailed when that takes too long.

        A control plane that cannot answer just now is asked again.
        """
        ends = time.monotonic() + limit_s
        while True:
            try:
                answer = await ask()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                seen = str(error.details())
            else:
                if is_reached(answer):
                    return answer
                seen = str(answer)
            if time.monotonic() > ends:
                raise DemoFailed(f"{what}: not reached within {limit_s:.0f} s; last seen: {seen[-1500:]}")
            await asyncio.sleep(POLL_S)

    async def job(self, kind: str, doing: str) -> dict[str, Any]:
        """Follow the newest job of a kind to its end and return its result; raises DemoFailed."""
        self._screen.doing(doing, 0.0)

        async def ask() -> Any:
            found = [j for j in (await self._stub.ListJobs(pb.ListJobsRequest())).jobs if j.kind == kind]
            if found:
                self._screen.doing(f"{doing}: {found[-1].message}", found[-1].progress)
            return found[-1] if found else None

        def is_over(job: Any) -> bool:
            return job is not None and job.state in ("done", "failed") and job.id not in self._known

        job = await self.wait(ask, is_over, doing, JOB_S)
        self._known.add(job.id)
        self._screen.doing("")
        if job.state == "failed":
            raise DemoFailed(f"job {job.id}: {job.message}")
        result: dict[str, Any] = json.loads(job.result_json)
        return result

    async def rollout(
        self, id: str, is_reached: Callable[[pb.Rollout], bool], doing: str, *, may_be_over: bool = False
    ) -> pb.Rollout:
        """Follow a rollout, the specialist's newest where ``id`` is empty, until it is as wanted.

        Raises:
            DemoFailed: It was taken back instead, unless it ``may_be_over``, or takes too long.
        """
        self._screen.doing(doing)

        async def ask() -> pb.Rollout | None:
            try:
                found: pb.Rollout = await self._stub.GetRollout(pb.GetRolloutRequest(id=id or self._name))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                return None
            shown = [
                MessageToDict(g, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
                for g in found.gates
            ]
            weights = f"{found.phase}: canary {found.canary_bp / 100:g} %, shadow {found.shadow_bp / 100:g} %"
            self._screen.gates(shown, weights)
            return found

        def is_over(found: pb.Rollout | None) -> bool:
            return found is not None and (is_reached(found) or (found.phase in TAKEN_BACK and not may_be_over))

        reached: pb.Rollout = await self.wait(ask, is_over, doing)
        if not is_reached(reached):
            raise DemoFailed(f"{doing}: rollout {reached.id} is {reached.phase} instead: {reached.end_reason}")
        return reached

    async def readings(self, is_reached: Callable[[Sequence[Any]], bool], doing: str) -> Any:
        """Wait until the drift readings are as wanted."""
        self._screen.doing(doing)
        return await self.wait(self.drift, is_reached, doing)

    async def drift(self) -> Any:
        """Return the last reading of every drift signal."""
        return (await self._stub.GetDriftStatus(pb.GetDriftStatusRequest(specialist=self._name))).readings

    async def plans(self) -> Any:
        """Return every plan so far, the oldest first."""
        return (await self._stub.GetPlanStatus(pb.GetPlanStatusRequest())).plans

    async def primary(self) -> str:
        """Return the digest of the bundle that serves."""
        return str((await self._stub.GetSpecialist(pb.GetSpecialistRequest(name=self._name))).primary_digest)
