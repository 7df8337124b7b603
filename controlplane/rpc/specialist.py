"""Specialists and the jobs that make and judge their bundles."""

import json
from typing import Any

from controlplane.errors import RequestInvalid, StepRefused, UnknownJob
from controlplane.loop import evaluate, retrain
from controlplane.loop.deployment import Deployment
from controlplane.loop.publish import standing_split
from controlplane.rpc.status import translated
from controlplane.rpc.transactions import Transactions, check_text, time_text
from controlplane.store import jobs, rollouts
from controlplane.store import samples as sample_rows
from controlplane.store.store import Unit
from protos import control_pb2 as pb
from protos.contract.digest import parse_digest


class SpecialistCalls(Transactions):
    """Of ``ControlService``: what there is, and asking for more."""

    @translated
    async def ListSpecialists(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List every configured specialist."""
        return await self._read(
            lambda unit: pb.ListSpecialistsResponse(
                specialists=[_specialist(unit, self._deployment, name) for name in sorted(self._deployment.packs)]
            )
        )

    @translated
    async def GetSpecialist(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show one specialist with its bundles."""
        self._deployment.pack(request.name)
        return await self._read(lambda unit: _specialist(unit, self._deployment, request.name))

    @translated
    async def Train(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Queue a training."""
        check_text(request.reason, "reason")
        check_text(request.requested_by, "requested_by")
        check_text(request.operation_id, "operation_id")
        if request.seed >= 2**31:
            raise RequestInvalid(f"seed is {request.seed}, expected below {2**31}")

        def ask(unit: Unit) -> Any:
            known = jobs.of_operation(unit, request.operation_id)
            busy = jobs.unfinished(unit, request.specialist)
            if known is None and busy is not None:
                raise StepRefused(f"job {busy.id!r} ({busy.kind}) of {request.specialist!r} is {busy.state}")
            has_primary = standing_split(unit, request.specialist) is not None
            name = retrain.ask(
                unit,
                self._deployment,
                request.specialist,
                cause="operator" if has_primary else "bootstrap",
                reason=request.reason,
                author=request.requested_by,
                start_rollout=request.start_rollout,
                seed=request.seed,
                operation_id=request.operation_id,
            )
            return job_message(jobs.get(unit, name))

        return await self._write(ask)

    @translated
    async def Evaluate(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Queue an evaluation."""
        parse_digest(request.bundle_digest, "bundle_digest")
        check_text(request.operation_id, "operation_id")

        def ask(unit: Unit) -> Any:
            name = evaluate.ask(
                unit,
                self._deployment,
                request.specialist,
                request.bundle_digest,
                cause="operator",
                start_rollout=False,
                operation_id=request.operation_id,
            )
            return job_message(jobs.get(unit, name))

        return await self._write(ask)

    @translated
    async def GetJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show one job."""
        found = await self._read(lambda unit: jobs.get(unit, request.id))
        if found is None:
            raise UnknownJob(request.id)
        return job_message(found)

    @translated
    async def ListJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List jobs, oldest first."""
        if request.specialist:
            self._deployment.pack(request.specialist)
        found = await self._read(lambda unit: jobs.listed(unit, request.specialist))
        return pb.ListJobsResponse(jobs=[job_message(job) for job in found])


def _specialist(unit: Unit, deployment: Deployment, name: str) -> pb.Specialist:
    pack = deployment.pack(name)
    split = standing_split(unit, name)
    samples, outcomes = sample_rows.count(unit, name)
    is_open = rollouts.opened(unit, name)
    return pb.Specialist(
        name=name,
        description=pack.task.description,
        labels=pack.task.labels,
        decisions=pack.task.decisions,
        primary_digest=split.primary if split else "",
        candidate_digest=(split.candidate or "") if split else "",
        canary_bp=split.canary_bp if split else 0,
        shadow_bp=split.shadow_bp if split else 0,
        suite_digest=pack.suite.digest,
        open_rollout=is_open[0].state.id if is_open else "",
        bundles=[
            pb.BundleInfo(
                digest=b.digest,
                state=b.state,
                cause=b.cause,
                created_at=time_text(b.created_ms),
                evaluation_id=b.evaluation or "",
            )
            for b in rollouts.bundles(unit, name)
        ],
        samples=samples,
        outcomes=outcomes,
    )


def job_message(row: Any) -> pb.Job:
    """Write a job's row as a message."""
    return pb.Job(
        id=row.id,
        kind=row.kind,
        specialist=row.specialist,
        state=row.state,
        attempt=row.attempt,
        progress=row.progress,
        message=row.message,
        result_json=json.dumps(row.result) if row.result is not None else "",
        created_at=time_text(row.created_ms),
        finished_at=time_text(row.finished_ms),
        cause=row.cause,
    )
