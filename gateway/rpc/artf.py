"""Agentic RTB Framework: one question, several specialists at the same time, what is ready when the time is over."""

import asyncio
import time
from collections.abc import Callable, Sequence

from gateway.domain.decision import Decision, Question
from gateway.errors import Draining, GatewayError, NoPlanYet, PromptRejected, UnknownSpecialist
from gateway.rpc.ports import Gateway
from gateway.rpc.wire import Call, Kind, Method, parse
from gateway.rtb.feedback import CENSORED, findings
from gateway.rtb.mutations import Unit, decision_id, input_of, metadata, mutations_of, routing_key, units_of
from gateway.rtb.openrtb_json import OpenRtbInvalid, loads
from gateway.rtb.rules import MutationRule
from protos import artf_pb2, artf_services_pb2, decide_pb2, openrtb_pb2, rtb_pb2
from protos.contract.given import Given

# From the descriptors, so that reflection has them.
SERVICE: str = artf_services_pb2.DESCRIPTOR.services_by_name["RTBExtensionPoint"].full_name
JSON_SERVICE: str = rtb_pb2.DESCRIPTOR.services_by_name["RtbService"].full_name
MAX_UNITS = 64  # decisions of one call, as many as rows of one ModelInfer

# What became of a decision: (specialist, result), results a closed set.
Note = Callable[[str, str], None]


class ArtfService:
    """Reads auctions, asks the specialists that the settings name, and writes mutations.

    A specialist that cannot answer leaves its mutations out; the others' are returned. Only a gateway
    that has no plan or is stopping refuses the call.
    """

    def __init__(self, gateway: Gateway, rules: Sequence[MutationRule], network_s: float, note: Note) -> None:
        self._gateway = gateway
        self._rules = rules
        self._network_s = network_s
        self._note = note

    def methods(self) -> tuple[Method, ...]:
        """Return this service's rows of the method table."""
        return (
            Method(f"/{SERVICE}/GetMutations", Kind.UNARY, self.get_mutations),
            Method(f"/{JSON_SERVICE}/GetMutationsJson", Kind.UNARY, self.get_mutations_json),
            Method(f"/{JSON_SERVICE}/ReportFeedback", Kind.UNARY, self.report_feedback),
        )

    async def get_mutations(self, call: Call, payload: bytes) -> bytes:
        """Answer one auction within its ``tmax``."""
        arrived = time.monotonic() if call.arrived is None else call.arrived
        request = parse(artf_pb2.RTBRequest, payload)
        return (await self._answer(call, request, arrived)).SerializeToString()

    async def get_mutations_json(self, call: Call, payload: bytes) -> bytes:
        """Answer one auction whose OpenRTB is JSON."""
        arrived = time.monotonic() if call.arrived is None else call.arrived
        said = parse(rtb_pb2.JsonRequest, payload)
        request = artf_pb2.RTBRequest(
            lifecycle=said.lifecycle, id=said.id, tmax=said.tmax, applicable_intents=said.applicable_intents
        )
        if said.HasField("originator"):
            request.originator.CopyFrom(said.originator)
        try:
            request.bid_request.CopyFrom(loads(openrtb_pb2.BidRequest, said.bid_request).message)
        except OpenRtbInvalid as error:
            raise PromptRejected(f"bid_request is {error}") from error
        if said.bid_response:
            try:
                request.bid_response.CopyFrom(loads(openrtb_pb2.BidResponse, said.bid_response).message)
            except OpenRtbInvalid as error:
                raise PromptRejected(f"bid_response is {error}") from error
        return (await self._answer(call, request, arrived)).SerializeToString()

    async def report_feedback(self, call: Call, payload: bytes) -> bytes:
        """Turn verdicts and notices into outcomes; all of them are checked before any is recorded."""
        feedback = parse(rtb_pb2.Feedback, payload)
        found = findings(self._rules, feedback)
        for finding in found:
            labels = self._gateway.task(finding.specialist).labels
            if finding.label is not None and finding.label not in labels:
                raise PromptRejected(
                    f"the settings give {finding.specialist!r} the label {finding.label!r}, "
                    f"expected one of {', '.join(labels)}"
                )
        receipt = rtb_pb2.FeedbackReceipt()
        for finding in found:
            if finding.label is None:
                if finding.why == CENSORED:
                    receipt.censored += 1
                else:
                    receipt.unmapped += 1
            elif not feedback.test:
                outcome = decide_pb2.ReportOutcomeRequest(
                    specialist=finding.specialist,
                    decision_id=finding.decision_id,
                    label=finding.label,
                    source=finding.source,
                )
                if self._gateway.report_outcome(outcome):
                    receipt.recorded += 1
                else:
                    receipt.dropped += 1
        return receipt.SerializeToString()

    async def _answer(self, call: Call, request: artf_pb2.RTBRequest, arrived: float) -> artf_pb2.RTBResponse:
        if not request.id:
            raise PromptRejected("id is empty, expected one that feedback can name")
        if not request.HasField("bid_request"):
            raise PromptRejected("bid_request is missing, expected an OpenRTB bid request")
        until = self._until(request, arrived, call.deadline)
        units = list(units_of(self._rules, request))
        for unit in units[MAX_UNITS:]:
            self._note(unit.rule.specialist, "over_limit")
        answers = await self._decide(units[:MAX_UNITS], request, until, arrived)
        return artf_pb2.RTBResponse(
            id=request.id,
            mutations=[m for unit, answer in answers for m in mutations_of(unit, answer, request)],
            metadata=metadata((unit.rule.specialist, answer) for unit, answer in answers),
        )

    def _until(self, request: artf_pb2.RTBRequest, arrived: float, deadline: float | None) -> float | None:
        """One clock: ``tmax`` less the network's share, or the caller's deadline, whichever ends first."""
        tmax = request.tmax if request.tmax > 0 else request.bid_request.tmax
        ends = [] if deadline is None else [deadline]
        if tmax > 0:
            ends.append(arrived + tmax / 1000 - self._network_s)
        return min(ends, default=None)

    async def _decide(
        self, units: Sequence[Unit], request: artf_pb2.RTBRequest, until: float | None, arrived: float
    ) -> list[tuple[Unit, Decision]]:
        """Ask for every unit at the same time; return what engines answered, in the order of the units."""
        answers: dict[int, Decision] = {}
        key = routing_key(request.bid_request)

        async def ask(i: int) -> None:
            name = units[i].rule.specialist
            answer, result = await self._ask(units[i], request, key, until, arrived)
            self._note(name, result)
            if answer is not None:
                answers[i] = answer

        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            for unit in units:
                self._note(unit.rule.specialist, "late")
            return []
        try:
            async with asyncio.timeout(left), asyncio.TaskGroup() as group:
                for i in range(len(units)):
                    group.create_task(ask(i))
        except TimeoutError:
            for i in set(range(len(units))) - answers.keys():
                self._note(units[i].rule.specialist, "late")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        return [(units[i], answers[i]) for i in sorted(answers)]

    async def _ask(
        self, unit: Unit, request: artf_pb2.RTBRequest, key: str, until: float | None, arrived: float
    ) -> tuple[Decision | None, str]:
        name = unit.rule.specialist
        try:
            given = input_of(unit, self._gateway.task(name))
            if given is None:
                return None, "no_input"
            question = Question(
                specialist=name,
                input=Given.of(given),
                routing_key=key,
                decision_id=decision_id(request.id, request.originator, name, unit.key),
                test=request.bid_request.test,
            )
            answer = await self._gateway.decide(question, until, arrived)
        except (NoPlanYet, Draining):
            raise
        except UnknownSpecialist:
            return None, "unknown_specialist"
        except PromptRejected:
            return None, "rejected"
        except GatewayError:
            return None, "error"
        # A fallback is what to do without knowledge; an exchange left alone does that by itself.
        return (None, "fallback") if answer.fallback else (answer, "answered")
