"""What the command line asks, answered from the store; protobuf on one side, rows on the other."""

import json
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from controlplane.domain.rollout import GateReading, Phase
from controlplane.errors import RequestInvalid, StepRefused, UnknownJob, UnknownRollout
from controlplane.loop import advance, approvals, evaluate, retrain
from controlplane.loop.deployment import Deployment
from controlplane.loop.evidence import evidence_shown, history, whole_evidence
from controlplane.loop.holdback import model_value
from controlplane.loop.publish import standing_split
from controlplane.loop.shadow_report import QUANTILES, Estimate, Measure, shadow_report
from controlplane.rpc.status import translated
from controlplane.store import jobs, ledger, observations, plans, records, rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from protos.contract.attestation import Approval
from protos.contract.digest import canonical_json, parse_digest
from protos.contract.ledger_proof import APPROVAL_GIVEN

MOST_ENTRIES = 1000
MOST_TEXT = 2000


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Every call is one transaction."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any]) -> None:
        self._deployment = deployment
        self._in_thread = in_thread

    async def _read(self, work: Callable[[Unit], Any]) -> Any:
        def whole() -> Any:
            with self._deployment.store.reading() as unit:
                return work(unit)

        return await self._in_thread(whole)

    async def _write(self, work: Callable[[Unit], Any]) -> Any:
        def whole() -> Any:
            with self._deployment.store.writing(self._deployment.clock()) as unit:
                return work(unit)

        answer = await self._in_thread(whole)
        self._deployment.changed()
        return answer

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
        _text(request.reason, "reason")
        _text(request.requested_by, "requested_by")
        _text(request.operation_id, "operation_id")
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
        _text(request.operation_id, "operation_id")

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

    @translated
    async def StartRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Open a rollout of an accepted bundle."""
        parse_digest(request.bundle_digest, "bundle_digest")
        _text(request.started_by, "started_by")
        _text(request.operation_id, "operation_id")
        return await self._write(
            lambda unit: self._rollout(
                unit,
                advance.start(
                    unit,
                    self._deployment,
                    request.specialist,
                    request.bundle_digest,
                    request.started_by,
                    request.operation_id,
                ),
            )
        )

    @translated
    async def GetRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show one rollout."""
        return await self._read(lambda unit: self._rollout(unit, self._find(unit, request.id)))

    @translated
    async def ListRollouts(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List rollouts, oldest first."""
        if request.specialist:
            self._deployment.pack(request.specialist)
        return await self._read(
            lambda unit: pb.ListRolloutsResponse(
                rollouts=[self._rollout(unit, row) for row in rollouts.listed(unit, request.specialist)]
            )
        )

    @translated
    async def DraftApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the statement a person would sign for the next step."""
        return await self._read(lambda unit: self._draft(unit, request))

    @translated
    async def SubmitApproval(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep a signed approval and act on it at once."""

        def submit(unit: Unit) -> Any:
            row = self._find(unit, request.rollout)
            wanted = approvals.next_step(unit, self._deployment, row)
            given = approvals.check(request.envelope, self._deployment, row, wanted)
            state = row.state
            is_new = plans.add_approval(unit, given.digest, state.id, state.specialist, given.bundle, request.envelope)
            if is_new:
                records.note(unit, given.digest, unit.record(given.person, APPROVAL_GIVEN, _said(given)))
                row = advance.step(unit, self._deployment, row)
            return self._rollout(unit, row)

        return await self._write(submit)

    @translated
    async def RejectRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """End a rollout that has not reached callers."""
        return await self._end(request, Phase.REJECTED)

    @translated
    async def RollBack(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return every request to the previous primary."""
        return await self._end(request, Phase.ROLLED_BACK)

    @translated
    async def PauseRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep a rollout where it is; harm still rolls it back."""
        return await self._pause(request, is_paused=True)

    @translated
    async def ResumeRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Let a paused rollout go on."""
        return await self._pause(request, is_paused=False)

    @translated
    async def GetHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a rollout's ledger entries."""

        def find(unit: Unit) -> Any:
            row = self._find(unit, request.rollout)
            return pb.GetHistoryResponse(entries=[_entry(entry) for entry in history(unit, row.state.id)])

        return await self._read(find)

    @translated
    async def GetPlanStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show every plan and every gateway."""
        return await self._read(self._plan_status)

    @translated
    async def GetDriftStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show drift readings, oldest first."""
        if request.specialist:
            self._deployment.pack(request.specialist)
        found = await self._read(lambda unit: observations.readings(unit, request.specialist))
        return pb.DriftStatus(readings=[_drift(row) for row in found])

    @translated
    async def GetHoldbackReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say what a specialist's primary is worth."""
        self._deployment.pack(request.specialist)
        found = await self._read(lambda unit: model_value(unit, self._deployment, request.specialist))
        return pb.HoldbackReport(
            specialist=request.specialist,
            bundle_digest=found.bundle,
            holdback_bp=found.holdback_bp,
            with_model=_estimate(found.with_model),
            without_model=_estimate(found.without_model),
            saved=_estimate(found.saved),
        )

    @translated
    async def GetShadowReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say what a rollout's shadow has shown."""
        return await self._read(lambda unit: self._shadow_report(unit, self._find(unit, request.rollout)))

    @translated
    async def GetEvidence(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Write everything about a rollout to the artifact store."""

        def write(unit: Unit) -> Any:
            row = self._find(unit, request.rollout)
            digest, path = whole_evidence(unit, self._deployment, row)
            return pb.Evidence(rollout=row.state.id, path=os.path.abspath(path), digest=digest)

        return await self._write(write)

    @translated
    async def GetLedger(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return entries and a signed checkpoint of the whole."""
        limit = min(request.limit or MOST_ENTRIES, MOST_ENTRIES)

        def read(unit: Unit) -> Any:
            size, root = ledger.head(unit.connection)
            if size == 0:
                return pb.Ledger()
            text = ledger.checkpoint(unit.connection, self._deployment.key, self._deployment.ledger_origin)
            found = ledger.entries(unit.connection, request.from_seq, limit)
            return pb.Ledger(entries=[_entry(e) for e in found], size=size, root=root.hex(), checkpoint=text)

        return await self._write(read)

    async def _end(self, request: Any, phase: Phase) -> Any:
        _text(request.person, "person")
        _text(request.reason, "reason")

        def end(unit: Unit) -> Any:
            name = self._find(unit, request.rollout).state.id
            return self._rollout(unit, advance.end(unit, self._deployment, name, phase, request.person, request.reason))

        return await self._write(end)

    async def _pause(self, request: Any, *, is_paused: bool) -> Any:
        _text(request.person, "person")
        _text(request.reason, "reason")

        def change(unit: Unit) -> Any:
            row = self._find(unit, request.rollout)
            name = row.state.id
            if not row.is_open:
                raise StepRefused(f"rollout {name!r} is {row.state.phase.value}, expected an open one")
            if row.state.paused == is_paused:
                raise StepRefused(f"rollout {name!r} is {'paused already' if is_paused else 'not paused'}")
            row = rollouts.moved(row, paused=is_paused)
            action = "rollout.paused" if is_paused else "rollout.resumed"
            unit.record(request.person, action, {"rollout": name, "reason": request.reason})
            rollouts.save(unit, row)
            return self._rollout(unit, row)

        return await self._write(change)

    def _find(self, unit: Unit, name: str) -> RolloutRow:
        return find_rollout(unit, self._deployment, name)

    def _draft(self, unit: Unit, request: Any) -> pb.ApprovalDraft:
        row = self._find(unit, request.rollout)
        wanted, statement = approvals.draft(unit, self._deployment, row, request.ceiling_bp)
        return pb.ApprovalDraft(
            rollout=row.state.id,
            step=wanted.name,
            ceiling_bp=statement.ceiling_bp,
            statement=canonical_json(statement.to_statement()),
            summary=self._summary(row, statement),
            from_shape_json=json.dumps(wanted.before.shape()) if wanted.before else "",
            to_shape_json=json.dumps(wanted.after.shape()),
            evidence_path=row.evidence_path,
            **evidence_shown(row),
        )

    @staticmethod
    def _summary(row: RolloutRow, statement: Approval) -> str:
        lines = [
            f"{statement.step} of {row.state.specialist}: {row.state.candidate} may answer up to "
            f"{statement.ceiling_bp / 100:g} % of requests."
        ]
        if row.state.primary:
            lines.append(f"It replaces {row.state.primary}; the way back needs no further approval.")
        return "\n".join(lines)

    def _rollout(self, unit: Unit, row: RolloutRow) -> pb.Rollout:
        state = row.state
        split = standing_split(unit, state.specialist)
        is_live = split is not None and split.candidate == state.candidate and row.is_open
        needs = ""
        if row.is_open and row.evidence is not None:
            wanted = approvals.next_step(unit, self._deployment, row)
            needs = "" if wanted is None else wanted.name
        given = [Approval.from_statement(e.payload) for e in plans.approvals_of(unit, state.id)]
        return pb.Rollout(
            id=state.id,
            specialist=state.specialist,
            phase=state.phase.value,
            paused=state.paused,
            primary_digest=state.primary or "",
            candidate_digest=state.candidate,
            canary_bp=split.canary_bp if split and is_live else 0,
            shadow_bp=split.shadow_bp if split and is_live else 0,
            stages_bp=state.stages_bp,
            waiting_for=row.waiting_for,
            gates=[_gate(reading) for reading in row.gates],
            approvals=[
                pb.ApprovalInfo(
                    person=a.person,
                    step=a.step,
                    ceiling_bp=a.ceiling_bp,
                    expires=_time(a.expires * 1000),
                    reason=a.reason,
                    statement_digest=a.digest,
                )
                for a in given
            ],
            evidence_path=row.evidence_path,
            evidence_digest=row.evidence or "",
            started_by=row.started_by,
            started_at=_time(row.started_ms),
            ended_at=_time(row.ended_ms),
            end_reason=row.end_reason,
            needs_approval_for=needs,
            required_approvals=self._deployment.operators().required_approvals,
            rollback_ms=row.rollback_ms or 0,
        )

    def _shadow_report(self, unit: Unit, row: RolloutRow) -> pb.ShadowReport:
        state = row.state
        found = shadow_report(unit, self._deployment, row)
        flow = found.flow
        return pb.ShadowReport(
            rollout=state.id,
            specialist=state.specialist,
            phase=state.phase.value,
            primary_digest=state.primary or "",
            candidate_digest=state.candidate,
            shadow_bp=state.shadow_bp,
            since=_time(found.since_ms or None),
            flow=pb.ShadowFlow(
                offered=flow.offered,
                sent=flow.sent,
                paired=flow.paired,
                drops=flow.drops,
                on_their_way=flow.on_their_way,
            ),
            pairs=found.pairs,
            primary_fallbacks=found.primary_fallbacks,
            failures=found.failures,
            decisions=[pb.DecisionPair(primary=p, candidate=c, n=n) for (p, c), n in sorted(found.decisions.items())],
            in_time=_estimate(found.in_time),
            detailed=found.detailed,
            score=_measure(found.score),
            engine_us=_measure(found.engine_us),
            slower=_estimate(found.slower),
            score_difference=_estimate(found.score_difference),
            known_cost=_estimate(found.known_cost),
            expected_by_primary=_estimate(found.expected_by_primary),
            expected_by_candidate=_estimate(found.expected_by_candidate),
            gates=[_gate(reading) for reading in found.gates],
        )

    def _plan_status(self, unit: Unit) -> pb.PlanStatus:
        shown = []
        for row in plans.after(unit, 0):
            try:
                rests_on = set(row.plan.approvals)
                body = json.dumps(row.plan.to_json())
            except ValueError:
                rests_on, body = set(), ""  # a row made by others: shown, not trusted
            envelopes = plans.approvals_of(unit, row.rollout) if row.rollout else []
            signed = [Approval.from_statement(e.payload) for e in envelopes]
            shown.append(
                pb.PlanInfo(
                    generation=row.generation,
                    digest=row.digest,
                    plan_json=body,
                    state=row.state,
                    refused_reason=row.reason,
                    created_at=_time(row.created_ms),
                    approved_by=sorted({a.person for a in signed if a.digest in rests_on}),
                )
            )
        return pb.PlanStatus(
            generation=max((p.generation for p in shown if p.state == plans.APPLIED), default=0),
            plans=shown,
            gateways=[
                pb.GatewayInfo(
                    gateway_id=g.id,
                    generation=g.generation,
                    last_seen=_time(g.seen_ms),
                    refusals=g.refusals,
                    last_refusal=g.last_refusal,
                )
                for g in plans.gateways(unit)
            ],
        )


def find_rollout(unit: Unit, deployment: Deployment, name: str) -> RolloutRow:
    """Return a rollout by its id, or a specialist's open one, else its last; raises UnknownRollout."""
    row = rollouts.get(unit, name)
    if row is not None:
        return row
    known = rollouts.listed(unit, name) if name in deployment.packs else []
    if not known:
        raise UnknownRollout(name)
    return next((r for r in reversed(known) if r.is_open), known[-1])


def _specialist(unit: Unit, deployment: Deployment, name: str) -> pb.Specialist:
    pack = deployment.pack(name)
    split = standing_split(unit, name)
    samples, outcomes = observations.count(unit, name)
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
                created_at=_time(b.created_ms),
                evaluation_id=b.evaluation or "",
            )
            for b in rollouts.bundles(unit, name)
        ],
        samples=samples,
        outcomes=outcomes,
    )


def _gate(reading: GateReading) -> pb.GateReading:
    return pb.GateReading(
        gate=reading.gate,
        verdict=reading.verdict.value,
        value=reading.value,
        lower=reading.lower,
        upper=reading.upper,
        limit=reading.limit,
        sample=reading.sample,
        sample_missing=reading.sample_missing,
        summary=reading.summary,
    )


def _estimate(found: Estimate) -> pb.Estimate:
    return pb.Estimate(value=found.value, lower=found.lower, upper=found.upper, sample=found.sample)


def _measure(found: Measure) -> pb.PairedMeasure:
    sides = (found.primary, found.candidate, found.difference)
    primary, candidate, difference = (pb.Quantiles(at=QUANTILES, value=side) for side in sides)
    return pb.PairedMeasure(primary=primary, candidate=candidate, difference=difference)


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
        created_at=_time(row.created_ms),
        finished_at=_time(row.finished_ms),
        cause=row.cause,
    )


def _drift(row: Any) -> pb.DriftReading:
    return pb.DriftReading(
        id=row.id,
        specialist=row.specialist,
        signal=row.signal,
        verdict=row.verdict,
        value=math.nan if row.value is None else row.value,
        threshold=row.threshold,
        sample=row.sample,
        at=_time(row.at_ms),
        summary=row.summary,
        action=row.action,
    )


def _entry(entry: ledger.Entry) -> pb.HistoryEntry:
    return pb.HistoryEntry(
        seq=entry.seq,
        at=entry.at.isoformat(timespec="milliseconds"),
        actor=entry.actor,
        action=entry.action,
        detail_json=json.dumps(entry.detail),
        body=entry.body,
    )


def _said(given: Approval) -> dict[str, Any]:
    return {
        "rollout": given.rollout,
        "statement": given.digest,
        "step": given.step,
        "bundle": given.bundle,
        "evidence": given.evidence,
        "ceiling_bp": given.ceiling_bp,
        "expires": given.expires,
        "reason": given.reason,
    }


def _time(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _text(value: str, name: str) -> None:
    if not value or len(value) > MOST_TEXT:
        raise RequestInvalid(f"{name} is {value[:60]!r}, expected 1 to {MOST_TEXT} characters")
