"""Jobs, retraining decisions and labels, as people steer them from the command line."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from controlplane.datasets.agreement import cohen_pairs, krippendorff_alpha, majority
from controlplane.errors import RequestInvalid, StepRefused, UnknownJob
from controlplane.loop import labelling
from controlplane.loop.deployment import Deployment
from controlplane.rpc.specialist import job_message
from controlplane.rpc.status import translated
from controlplane.store import decisions, jobs, labels
from controlplane.store.store import Unit
from protos import learning_pb2 as pb
from protos import learning_pb2_grpc

USUAL_CASES, MOST_CASES, MOST_TEXT = 20, 1000, 2000


class LearningService(learning_pb2_grpc.LearningServiceServicer):
    """Every call is one transaction."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any]) -> None:
        self._deployment = deployment
        self._in_thread = in_thread

    async def _transaction(self, work: Callable[[Unit], Any], *, writes: bool) -> Any:
        store = self._deployment.store

        def whole() -> Any:
            with store.writing(self._deployment.clock()) if writes else store.reading() as unit:
                return work(unit)

        return await self._in_thread(whole)

    @translated
    async def RetryJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Queue a failed or cancelled job again."""
        return await self._command(request, jobs.retry, "job.retried", "failed or cancelled")

    @translated
    async def CancelJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        """End a job that has not ended."""

        def cancel(unit: Unit, name: str) -> bool:
            return jobs.cancel(unit, name, f"cancelled by {request.person}: {request.reason}")

        return await self._command(request, cancel, "job.cancelled", "queued or running")

    async def _command(self, request: Any, change: Callable[[Unit, str], bool], action: str, expected: str) -> Any:
        _text(request.person, "person")
        _text(request.reason, "reason")

        def work(unit: Unit) -> Any:
            found = jobs.get(unit, request.id)
            if found is None:
                raise UnknownJob(request.id)
            if not change(unit, request.id):
                raise StepRefused(f"job {request.id!r} is {found.state}, expected one that is {expected}")
            unit.record(request.person, action, {"job": request.id, "reason": request.reason})
            return job_message(jobs.get(unit, request.id))

        return await self._transaction(work, writes=True)

    @translated
    async def ListRetrainDecisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List decisions, oldest first."""
        if request.specialist:
            self._deployment.pack(request.specialist)
        found = await self._transaction(lambda unit: decisions.listed(unit, request.specialist), writes=False)
        return pb.RetrainDecisions(
            decisions=[
                pb.RetrainDecision(
                    id=row.id,
                    specialist=row.specialist,
                    trigger=row.trigger,
                    retrains=not row.code,
                    code=row.code,
                    reason=row.reason,
                    job=row.job,
                    at=datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
                )
                for row in found
            ]
        )

    @translated
    async def NextCases(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return cases to label."""
        limit = min(request.limit or USUAL_CASES, MOST_CASES)
        found = await self._transaction(
            lambda unit: labelling.next_cases(unit, self._deployment, request.specialist, request.person, limit),
            writes=False,
        )
        return pb.Cases(
            cases=[
                pb.Case(
                    decision_id=case.row.decision_id,
                    text=case.row.text,
                    decision=case.row.decision,
                    score=case.row.score,
                    why=case.why,
                    labels=case.row.labels,
                )
                for case in found
            ]
        )

    @translated
    async def ImportLabels(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep labels; rows that cannot be kept come back with their reasons."""
        rows = [(one.decision_id, one.person, one.label) for one in request.labels]
        kept, refused = await self._transaction(
            lambda unit: labelling.import_labels(unit, self._deployment, request.specialist, rows), writes=True
        )
        return pb.ImportLabelsResponse(
            kept=kept, refused=[pb.RefusedLabel(row=one.row, problem=one.problem) for one in refused]
        )

    @translated
    async def GetLabels(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return every label with how far people agree."""
        known = self._deployment.pack(request.specialist).task.labels
        rows = await self._transaction(lambda unit: labels.given(unit, request.specialist), writes=False)
        said: dict[str, dict[str, str]] = {}
        texts: dict[str, str] = {}
        for row in rows:
            if row.label in known:  # labels of an earlier task are not compared
                said.setdefault(row.decision_id, {})[row.person] = row.label
                texts[row.decision_id] = row.text
        alpha = krippendorff_alpha(said, known)
        return pb.Labels(
            cases=[
                pb.LabelledCase(
                    decision_id=name,
                    text=texts[name],
                    label=majority(given.values()) or "",
                    given=[pb.GivenLabel(decision_id=name, person=p, label=label) for p, label in given.items()],
                )
                for name, given in said.items()
            ],
            has_alpha=alpha is not None,
            alpha=alpha or 0.0,
            pairs=[
                pb.Agreement(first=pair.first, second=pair.second, cases=pair.cases, kappa=pair.kappa)
                for pair in cohen_pairs(said)
                if pair.kappa is not None
            ],
        )


def _text(value: str, name: str) -> None:
    if not value or len(value) > MOST_TEXT:
        raise RequestInvalid(f"{name} is {value[:60]!r}, expected 1 to {MOST_TEXT} characters")
