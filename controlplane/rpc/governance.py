"""Who may do what, proofs from the ledger, decisions explained, and rehearsals of the way back."""

import asyncio
import json
import time
from typing import Any

from controlplane.errors import RequestInvalid, StepRefused
from controlplane.loop import drill
from controlplane.loop.arms import arm_sums, shadow_drops
from controlplane.loop.decisions import ARMS, Explained, at, explain
from controlplane.loop.operators import update_operators
from controlplane.loop.witness import add_auditor_s
from controlplane.rpc.status import translated
from controlplane.rpc.transactions import Transactions, find_rollout
from controlplane.store import ledger, records
from controlplane.store.store import Unit
from protos import governance_pb2 as pb
from protos import governance_pb2_grpc
from protos.contract.operators import Operators

DRILL_S = 20.0
DRILL_POLL_S = 0.02


class GovernanceService(Transactions, governance_pb2_grpc.GovernanceServiceServicer):
    """Every call is one transaction, a drill two and the looks between."""

    @translated
    async def UpdateOperators(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take the next version of the list of people."""
        return await self._write(lambda unit: _people(update_operators(unit, self._deployment, request.envelope)))

    @translated
    async def GetOperators(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show the list of people."""
        return _people(self._deployment.operators())

    @translated
    async def GetHead(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a signed head with its cosignatures: of the stored ones the newest, or a new one if none is."""

        def read(unit: Unit) -> Any:
            size, _ = ledger.head(unit.connection)
            if size == 0:
                raise StepRefused("the ledger is empty")
            if size < request.least_size:
                raise RequestInvalid(f"the ledger has {size} entries, expected a head of {request.least_size} or more")
            if ledger.stored_checkpoint(unit.connection, request.least_size) is None:
                ledger.checkpoint(unit.connection, self._deployment.key, self._deployment.ledger_origin)
            return _head(unit, request.least_size)

        return await self._write(read)

    @translated
    async def ProveEntry(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Prove one entry under a signed head."""

        def prove(unit: Unit) -> Any:
            size, text = _stored(unit, request.size or request.seq + 1)
            if request.seq >= size:
                raise RequestInvalid(f"seq is {request.seq}, expected below {size}")
            (proof,) = ledger.prove(unit.connection, [request.seq], size)
            return pb.EntryProof(seq=proof.seq, body=proof.body, hashes=proof.hashes, checkpoint=text)

        return await self._read(prove)

    @translated
    async def ProveConsistency(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Prove that a head continues an older one."""

        def prove(unit: Unit) -> Any:
            size, text = _stored(unit, request.new_size)
            if not 1 <= request.old_size <= size:
                raise RequestInvalid(f"old_size is {request.old_size}, expected 1 to {size}")
            hashes = ledger.prove_consistency(unit.connection, request.old_size, size)
            return pb.ConsistencyProof(old_size=request.old_size, hashes=hashes, checkpoint=text)

        return await self._read(prove)

    @translated
    async def Cosign(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep an auditor's word on a head."""

        def keep(unit: Unit) -> Any:
            size = add_auditor_s(unit, self._deployment, request.witness, request.checkpoint)
            return _head(unit, size)

        return await self._write(keep)

    @translated
    async def ExplainDecision(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show everything kept about one decision."""
        return await self._read(
            lambda unit: _decision(explain(unit, self._deployment, request.decision_id, request.specialist))
        )

    @translated
    async def GetArms(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show what each arm of a rollout did."""

        def read(unit: Unit) -> Any:
            state = find_rollout(unit, self._deployment, request.rollout).state
            found = arm_sums(unit, state.specialist, state.id)
            return pb.Arms(
                arms=[
                    pb.Arm(
                        arm=arm,
                        bundle_digest=bundle,
                        requests=one.requests,
                        unanswered=one.unanswered,
                        late=one.late,
                        p50_ms=one.quantile_ms(0.5),
                        p99_ms=one.quantile_ms(0.99),
                    )
                    for (arm, bundle), one in found.items()
                ],
                drops=shadow_drops(unit, state.specialist, state.id),
            )

        return await self._read(read)

    @translated
    async def Drill(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Rehearse a rollout's way back."""
        if not request.person:
            raise RequestInvalid("person is empty, expected who says so")
        deployment = self._deployment
        begun = await self._write(
            lambda unit: drill.begin(unit, deployment, find_rollout(unit, deployment, request.rollout), request.person)
        )
        try:
            gateways, at_ms = await self._settled(begun)
        except StepRefused:
            await self._write(lambda unit: drill.put_back(unit, deployment, begun.rollout, begun.shadow))
            raise
        took_ms = await self._write(lambda unit: drill.finish(unit, deployment, begun, gateways, request.person, at_ms))
        return pb.DrillReport(
            rollout=begun.rollout,
            took_ms=took_ms,
            generation=begun.generation,
            at=at(begun.started_ms),
            gateways=gateways,
        )

    async def _settled(self, begun: drill.Begun) -> tuple[list[str], int]:
        ends = time.monotonic() + DRILL_S
        while time.monotonic() < ends:
            found = await self._read(lambda unit: drill.settled(unit, begun))
            if found is not None:
                gateways, at_ms = found
                return gateways, at_ms
            await asyncio.sleep(DRILL_POLL_S)
        raise StepRefused(f"not every gateway took the plan of the drill within {DRILL_S:.0f} s")


def _people(operators: Operators) -> Any:
    return pb.OperatorsState(
        version=operators.version, operators_json=json.dumps(operators.to_json()), expires=operators.expires
    )


def _stored(unit: Unit, least: int) -> tuple[int, str]:
    found = ledger.stored_checkpoint(unit.connection, least)
    if found is None:
        raise RequestInvalid(f"no head of {least} entries or more was signed yet; ask for the head first")
    return found


def _head(unit: Unit, least: int) -> Any:
    size, text = _stored(unit, least)
    cosigned = records.cosignatures(unit, size)
    found = pb.Head(
        size=size, checkpoint=text + "".join(c.line for c in cosigned), witnesses=[c.witness for c in cosigned]
    )
    for last in records.last_cosigned(unit, size):
        found.seen.add(witness=last.witness, size=last.size, checkpoint=last.text + last.line)
    return found


def _decision(found: Explained) -> Any:
    row, happened, weighed = found.row, found.outcome, found.weighed
    return pb.Decision(
        decision_id=row.decision_id,
        specialist=row.specialist,
        at=at(row.at_ms),
        input=row.text,
        input_state="kept" if row.text else "erased" if row.sealed_text else "not_kept",
        arm=ARMS.get(row.arm, str(row.arm)),
        bundle_digest=row.bundle,
        plan_generation=row.generation,
        plan_digest=found.plan_digest,
        rollout=row.salt,
        decision=row.decision,
        score=row.score,
        threshold=weighed.threshold if weighed is not None else None,
        beyond=weighed.beyond if weighed is not None else "",
        expected_costs=[
            pb.ExpectedCost(decision=decision, cost=cost)
            for decision, cost in zip(found.decisions, weighed.costs if weighed is not None else (), strict=False)
        ],
        reasons=[pb.GivenReason(field=name, log_odds=share) for name, share in row.reasons],
        reason_codes=[name for name, _ in row.reasons],
        input_digest=row.input_digest,
        fallback=row.fallback,
        outcome=happened.label if happened is not None else "",
        outcome_at=at(happened.observed_ms) if happened is not None else "",
        outcome_source=happened.source if happened is not None else "",
        approved_by=found.approved_by,
        ledger_seq=found.ledger_seq,
    )
