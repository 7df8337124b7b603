"""What was measured on live traffic: drift, holdback, shadow."""

import math
from typing import Any

from controlplane.loop.holdback import model_value
from controlplane.loop.shadow_report import QUANTILES, Estimate, Measure, shadow_report
from controlplane.rpc.status import translated
from controlplane.rpc.transactions import Transactions, find_rollout, gate_message, time_text
from controlplane.store import readings
from controlplane.store.store import Unit
from protos import control_pb2 as pb


class ReadingCalls(Transactions):
    """Of ``ControlService``: reports on what happened to callers."""

    @translated
    async def GetDriftStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Show drift readings, oldest first."""
        if request.specialist:
            self._deployment.pack(request.specialist)
        found = await self._read(lambda unit: readings.newest(unit, request.specialist))
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
        return await self._read(lambda unit: self._shadow_report(unit, request.rollout))

    def _shadow_report(self, unit: Unit, name: str) -> pb.ShadowReport:
        row = find_rollout(unit, self._deployment, name)
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
            since=time_text(found.since_ms or None),
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
            gates=[gate_message(reading) for reading in found.gates],
        )


def _estimate(found: Estimate) -> pb.Estimate:
    return pb.Estimate(value=found.value, lower=found.lower, upper=found.upper, sample=found.sample)


def _measure(found: Measure) -> pb.PairedMeasure:
    sides = (found.primary, found.candidate, found.difference)
    primary, candidate, difference = (pb.Quantiles(at=QUANTILES, value=side) for side in sides)
    return pb.PairedMeasure(primary=primary, candidate=candidate, difference=difference)


def _drift(row: Any) -> pb.DriftReading:
    return pb.DriftReading(
        id=row.id,
        specialist=row.specialist,
        signal=row.signal,
        verdict=row.verdict,
        value=math.nan if row.value is None else row.value,
        threshold=row.threshold,
        sample=row.sample,
        at=time_text(row.at_ms),
        summary=row.summary,
        action=row.action,
    )
