"""What was recorded: histories, plans, evidence, the ledger."""

import json
import os
from typing import Any

from controlplane.loop.evidence import history, whole_files
from controlplane.rpc.status import translated
from controlplane.rpc.transactions import Transactions, find_rollout, time_text
from controlplane.store import ledger, plans
from controlplane.store.store import Unit
from protos import control_pb2 as pb
from protos.contract.attestation import Approval

MOST_ENTRIES = 1000


class RecordCalls(Transactions):
    """Of ``ControlService``: what an auditor reads."""

    @translated
    async def GetHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a rollout's ledger entries."""

        def find(unit: Unit) -> Any:
            row = find_rollout(unit, self._deployment, request.rollout)
            return pb.GetHistoryResponse(entries=[entry_message(entry) for entry in history(unit, row.state.id)])

        return await self._read(find)

    @translated
    async def GetPlanStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show every plan and every gateway."""
        return await self._read(self._plan_status)

    @translated
    async def GetEvidence(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Write everything about a rollout to the artifact store."""

        def write(unit: Unit) -> Any:
            row = find_rollout(unit, self._deployment, request.rollout)
            files, digest = whole_files(unit, self._deployment, row)
            path = self._deployment.artifacts.put_directory(row.state.id, files)
            sent = files if request.with_files else {}
            return pb.Evidence(rollout=row.state.id, path=os.path.abspath(path), digest=digest, files=sent)

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
            return pb.Ledger(entries=[entry_message(e) for e in found], size=size, root=root.hex(), checkpoint=text)

        return await self._write(read)

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
                    created_at=time_text(row.created_ms),
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
                    last_seen=time_text(g.seen_ms),
                    refusals=g.refusals,
                    last_refusal=g.last_refusal,
                )
                for g in plans.gateways(unit)
            ],
        )


def entry_message(entry: ledger.Entry) -> pb.HistoryEntry:
    """Write a ledger entry as a message."""
    return pb.HistoryEntry(
        seq=entry.seq,
        at=entry.at.isoformat(timespec="milliseconds"),
        actor=entry.actor,
        action=entry.action,
        detail_json=json.dumps(entry.detail),
        body=entry.body,
    )
