"""Rollouts: opening, approving, holding and ending them."""

import json
from dataclasses import replace
from typing import Any

from controlplane.domain.rollout import Phase
from controlplane.errors import ApprovalRefused, StepRefused
from controlplane.loop import advance, approvals, evaluate, opening
from controlplane.loop.evidence import evidence_shown
from controlplane.loop.publish import standing_split
from controlplane.rpc.status import translated
from controlplane.rpc.transactions import Transactions, check_text, find_rollout, gate_message, time_text
from controlplane.store import drills, jobs, plans, records, rollouts
from controlplane.store.rollouts import RolloutRow
from controlplane.store.store import Unit
from protos import control_pb2 as pb
from protos import traffic_pb2
from protos.contract.attestation import Approval
from protos.contract.digest import canonical_json, parse_digest
from protos.contract.ledger_proof import APPROVAL_GIVEN


class RolloutCalls(Transactions):
    """Of ``ControlService``: every step of a rollout that a person takes."""

    @translated
    async def StartRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Open a rollout; a bundle that nobody judged yet is evaluated first."""
        parse_digest(request.bundle_digest, "bundle_digest")
        check_text(request.started_by, "started_by")
        check_text(request.operation_id, "operation_id")

        def start(unit: Unit) -> Any:
            specialist, bundle = request.specialist, request.bundle_digest
            if rollouts.bundle_row(unit, bundle) is None:
                evaluate.admit(unit, self._deployment, specialist, bundle, cause="operator")
            row = opening.start(unit, self._deployment, specialist, bundle, request.started_by, request.operation_id)
            if row.state.phase is Phase.CANDIDATE and not _is_under_way(unit, specialist, bundle):
                evaluate.ask(unit, self._deployment, specialist, bundle, cause="operator", start_rollout=False)
            return self._rollout(unit, row)

        return await self._write(start)

    @translated
    async def GetRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show one rollout."""
        return await self._read(lambda unit: self._rollout(unit, find_rollout(unit, self._deployment, request.id)))

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
            row = find_rollout(unit, self._deployment, request.rollout)
            given = approvals.check(unit, self._deployment, row, request.envelope)
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
    async def HoldRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep a rollout where it is; harm still rolls it back."""
        return await self._hold(request, is_held=True)

    @translated
    async def ResumeRollout(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Let a held rollout go on."""
        return await self._hold(request, is_held=False)

    async def _end(self, request: Any, phase: Phase) -> Any:
        check_text(request.person, "person")
        check_text(request.reason, "reason")

        def end(unit: Unit) -> Any:
            name = find_rollout(unit, self._deployment, request.rollout).state.id
            return self._rollout(unit, advance.end(unit, self._deployment, name, phase, request.person, request.reason))

        return await self._write(end)

    async def _hold(self, request: Any, *, is_held: bool) -> Any:
        check_text(request.person, "person")
        check_text(request.reason, "reason")

        def change(unit: Unit) -> Any:
            row = find_rollout(unit, self._deployment, request.rollout)
            name = row.state.id
            if not row.is_open:
                raise StepRefused(f"rollout {name!r} is {row.state.phase.value}, expected an open one")
            if row.state.held == is_held:
                raise StepRefused(f"rollout {name!r} is {'held already' if is_held else 'not held'}")
            after = replace(rollouts.moved(row, held=is_held), waiting_for="")  # said anew at the next step
            action = "rollout.held" if is_held else "rollout.resumed"
            return self._rollout(
                unit, rollouts.move(unit, row, after, request.person, action, {"reason": request.reason})
            )

        return await self._write(change)

    def _draft(self, unit: Unit, request: Any) -> pb.ApprovalDraft:
        row = find_rollout(unit, self._deployment, request.rollout)
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
        return pb.Rollout(
            id=state.id,
            specialist=state.specialist,
            phase=state.phase.value,
            held=state.held,
            primary_digest=state.primary or "",
            candidate_digest=state.candidate,
            canary_bp=split.canary_bp if split and is_live else 0,
            shadow_bp=split.shadow_bp if split and is_live else 0,
            stages_bp=state.stages_bp,
            waiting_for=row.waiting_for,
            gates=[gate_message(reading) for reading in row.gates],
            approvals=[self._approval(unit, row, needs, signed) for signed in plans.approvals_of(unit, state.id)],
            evidence_path=row.evidence_path,
            evidence_digest=row.evidence or "",
            started_by=row.started_by,
            started_at=time_text(row.started_ms),
            ended_at=time_text(row.ended_ms),
            end_reason=row.end_reason,
            needs_approval_for=needs,
            required_approvals=self._deployment.operators().required_approvals,
            rollback_ms=row.rollback_ms or 0,
            drills=[
                pb.DrillInfo(at=time_text(d.started_ms), took_ms=d.took_ms, gateways=d.gateways, person=d.person)
                for d in drills.of_rollout(unit, state.id)
                if d.took_ms is not None
            ],
        )

    def _approval(self, unit: Unit, row: RolloutRow, needs: str, signed: traffic_pb2.Envelope) -> pb.ApprovalInfo:
        given, void = Approval.from_statement(signed.payload), ""
        if given.step == needs:
            try:
                approvals.check(unit, self._deployment, row, signed)
            except ApprovalRefused as refused:
                void = refused.reason
        return pb.ApprovalInfo(
            person=given.person,
            step=given.step,
            ceiling_bp=given.ceiling_bp,
            expires=time_text(given.expires * 1000),
            reason=given.reason,
            statement_digest=given.digest,
            void_reason=void,
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


def _is_under_way(unit: Unit, specialist: str, bundle: str) -> bool:
    job = jobs.last_evaluation(unit, specialist, bundle)
    return job is not None and job.state in jobs.UNFINISHED
