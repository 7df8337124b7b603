"""GetMutations on a gateway that answers as told: concurrency, partial results, one clock, test traffic."""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.decision import Decision, Question
from gateway.errors import Draining, EngineFailed, NoPlanYet, PromptRejected, UnknownSpecialist
from gateway.rpc.artf import MAX_UNITS, ArtfService
from gateway.rpc.wire import Call
from gateway.rtb.rules import MutationRule
from protos import artf_pb2, decide_pb2, rtb_pb2
from protos.contract.task import Field, TaskSpec, check_input
from tests.gateway.rtb.rules import BRAND, RULES
from tests.tasks import TASK

SAMPLES = Path(__file__).parents[4] / "shared/data/openrtb-samples"
MFA = replace(
    TASK,
    name="mfa",
    fields=(
        Field("domain", "text", True, True),
        Field("hops", "integer", False, True),
        Field("refreshes", "integer", False, True),
    ),
    template="{domain} {hops} {refreshes}",
)
SHADE = replace(
    TASK,
    name="shade",
    fields=(Field("price", "number", True, True), Field("floor", "number", False, True)),
    template="{price} {floor}",
    labels=("low", "middle", "high", "beyond"),
    decisions=("half", "most", "all"),
    cost=((0.0, 0.0, 0.0),) * 4,
    score_label="low",
    fallback_decision="all",
)
BEFORE, AFTER = artf_pb2.LIFECYCLE_PUBLISHER_BID_REQUEST, artf_pb2.LIFECYCLE_DSP_BID_RESPONSE


@dataclass
class Specialists:
    """Answers each specialist with the decision told for it; held ones wait, failing ones fail."""

    tasks: dict[str, TaskSpec] = field(default_factory=lambda: {task.name: task for task in (TASK, MFA, SHADE)})
    decisions: dict[str, str] = field(default_factory=lambda: {"brand": "block", "mfa": "block", "shade": "half"})
    held: set[str] = field(default_factory=set)
    failing: dict[str, Exception] = field(default_factory=dict)
    fallbacks: set[str] = field(default_factory=set)
    asked: list[Question] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    outcomes: list[decide_pb2.ReportOutcomeRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    met: asyncio.Barrier | None = None

    async def decide(self, question: Question, deadline: float | None, arrived: float | None) -> Decision:
        name = question.specialist
        task = self.task(name)
        check_input(task, question.input, len(question.input.raw))
        self.asked.append(question)
        self.deadlines.append(deadline)
        if self.met is not None:
            await self.met.wait()
        if name in self.failing:
            raise self.failing[name]
        if name in self.held:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        label = task.labels[-1] if name != "shade" else "low"
        last = len(task.labels) - 1
        return Decision(
            question.decision_id,
            decide_pb2.ARM_PRIMARY,
            "sha256:" + name,
            7,
            0,
            self.decisions[name],
            0.9,
            label,
            task.labels,
            tuple(0.9 if i == last else 0.1 for i in range(len(task.labels))),
            fallback=decide_pb2.FALLBACK_REASON_NO_TIME if name in self.fallbacks else 0,
        )

    def task(self, specialist: str) -> TaskSpec:
        if specialist not in self.tasks:
            raise UnknownSpecialist(specialist)
        return self.tasks[specialist]

    def report_outcome(self, request: decide_pb2.ReportOutcomeRequest) -> bool:
        self.outcomes.append(request)
        return True


def auction(**changes: Any) -> artf_pb2.RTBRequest:
    request = artf_pb2.RTBRequest(lifecycle=BEFORE, id="q", tmax=60_000, **changes)
    request.bid_request.id = "auction"
    request.bid_request.site.domain = "news.example"
    request.bid_request.site.content.title = "a title"
    request.bid_request.source.schain.nodes.add(asi="ssp.example", sid="1")
    for name in ("1", "2"):
        imp = request.bid_request.imp.add(id=name, bidfloor=2.0)
        imp.pmp.deals.add(id=f"deal-{name}", bidfloor=4.5)
    seat = request.bid_response.seatbid.add(seat="s")
    seat.bid.add(id="b1", impid="1", price=10.0)
    seat.bid.add(id="b2", impid="2", price=5.0, dealid="deal-2")
    return request


@dataclass
class Caller:
    gateway: Specialists = field(default_factory=Specialists)
    rules: Sequence[MutationRule] = RULES
    noted: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def ask(self, request: Any, deadline: float | None = None, network_s: float = 0.0) -> artf_pb2.RTBResponse:
        service = ArtfService(
            self.gateway,  # type: ignore[arg-type]
            self.rules,
            network_s,
            lambda name, result: self.noted.update([(name, result)]),
        )
        is_json = isinstance(request, rtb_pb2.JsonRequest)
        method = service.get_mutations_json if is_json else service.get_mutations
        said = await method(Call("/", deadline=deadline), request.SerializeToString())
        return artf_pb2.RTBResponse.FromString(said)

    async def report(self, feedback: rtb_pb2.Feedback) -> rtb_pb2.FeedbackReceipt:
        service = ArtfService(self.gateway, self.rules, 0.0, lambda *_: None)  # type: ignore[arg-type]
        said = await service.report_feedback(Call("/"), feedback.SerializeToString())
        return rtb_pb2.FeedbackReceipt.FromString(said)


def told(response: artf_pb2.RTBResponse) -> list[tuple[str, str, str]]:
    return [
        (artf_pb2.Intent.Name(m.intent), artf_pb2.Operation.Name(m.op).removeprefix("OPERATION_"), m.path)
        for m in response.mutations
    ]


def test_each_specialist_feeds_the_intents_that_the_settings_give_it() -> None:
    response = asyncio.run(Caller().ask(auction()))
    assert response.id == "q"
    assert told(response) == [
        ("ADD_METRICS", "ADD", "/imp/1"),
        ("ADD_METRICS", "ADD", "/imp/2"),
        ("ADD_CIDS", "ADD", "/site/content/data"),
        ("ADD_METRICS", "ADD", "/imp/1"),
        ("SUPPRESS_DEALS", "REMOVE", "/imp/1"),
        ("ADD_METRICS", "ADD", "/imp/2"),
        ("SUPPRESS_DEALS", "REMOVE", "/imp/2"),
    ]
    metric, _, cids, per_label, deals, *_ = response.mutations
    assert metric.metrics.metric[0].type == "brand_risk" and metric.metrics.metric[0].value == pytest.approx(0.9)
    assert [m.type for m in per_label.metrics.metric] == ["mfa", "mfa.safe", "mfa.unsafe"]
    assert list(cids.content_data.data[0].ext.cids) == ["floor"] and cids.content_data.data[0].name == "interlock"
    assert list(deals.ids.id) == ["deal-1"]
    assert response.metadata.api_version == "1.0"
    assert response.metadata.model_version == "generation=7;brand=sha256:brand;mfa=sha256:mfa"


def test_a_shaded_bid_never_falls_below_its_floor_of_the_same_currency() -> None:
    request = auction()
    request.lifecycle = AFTER
    response = asyncio.run(Caller().ask(request))
    assert told(response) == [
        ("BID_SHADE", "REPLACE", "/seatbid/s/bid/b1"),
        ("BID_SHADE", "REPLACE", "/seatbid/s/bid/b2"),
    ]
    assert [m.adjust_bid.price for m in response.mutations] == [5.0, 4.5]  # half; the deal's floor
    request.bid_response.cur = "EUR"
    assert [m.adjust_bid.price for m in asyncio.run(Caller().ask(request)).mutations] == [5.0, 2.5]


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf"), 2.0])
def test_a_bid_that_cannot_be_lowered_is_left_alone(price: float) -> None:
    request = auction()
    request.lifecycle = AFTER
    del request.bid_response.seatbid[0].bid[1]
    request.bid_response.seatbid[0].bid[0].price = price
    assert not asyncio.run(Caller().ask(request)).mutations


def test_only_applicable_intents_come_back_and_only_their_specialists_are_asked() -> None:
    caller = Caller()
    response = asyncio.run(caller.ask(auction(applicable_intents=[artf_pb2.ADD_CIDS])))
    assert told(response) == [("ADD_CIDS", "ADD", "/site/content/data")]
    assert {request.specialist for request in caller.gateway.asked} == {"brand"}


def test_specialists_are_asked_at_the_same_time() -> None:
    async def story() -> artf_pb2.RTBResponse:
        # Nobody passes before all three decisions are there.
        caller = Caller(Specialists(met=asyncio.Barrier(3)))
        return await asyncio.wait_for(caller.ask(auction()), 20)

    assert asyncio.run(story()).metadata.model_version.count("sha256") == 2


def test_what_is_ready_comes_back_when_the_time_is_over() -> None:
    caller = Caller(Specialists(held={"mfa"}))
    response = asyncio.run(caller.ask(auction(), deadline=time.monotonic() + 0.2))
    assert {path for _, _, path in told(response)} == {"/imp/1", "/imp/2", "/site/content/data"}
    assert response.metadata.model_version == "generation=7;brand=sha256:brand"
    assert caller.gateway.cancelled == ["mfa", "mfa"]
    assert caller.noted == {("brand", "answered"): 1, ("mfa", "late"): 2}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"failing": {"mfa": EngineFailed("mfa")}}, "error"),
        ({"failing": {"mfa": PromptRejected("too long")}}, "rejected"),
        ({"fallbacks": {"mfa"}}, "fallback"),
        ({"tasks": {"brand": TASK}}, "unknown_specialist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_specialist_without_an_answer_leaves_the_others_theirs(change: dict[str, Any], result: str) -> None:
    caller = Caller(Specialists(**change))
    response = asyncio.run(caller.ask(auction()))
    assert len(response.mutations) == 3
    assert caller.noted == {("brand", "answered"): 1, ("mfa", result): 2}


@pytest.mark.parametrize("error", [NoPlanYet(), Draining()], ids=lambda error: type(error).__name__)
def test_a_gateway_that_cannot_serve_at_all_says_so(error: Exception) -> None:
    with pytest.raises(type(error)):
        asyncio.run(Caller(Specialists(failing={"brand": error})).ask(auction()))


def test_the_clock_is_tmax_less_the_network_or_the_callers_deadline() -> None:
    for tmax, of_request, deadline_s, expected_s in (
        (100, 0, None, 0.08),
        (0, 100, None, 0.08),
        (100, 0, 0.05, 0.05),
        (0, 0, 0.05, 0.05),
        (0, 0, None, None),
    ):
        request = auction()
        request.tmax, request.bid_request.tmax = tmax, of_request
        caller = Caller()
        before = time.monotonic()
        deadline = None if deadline_s is None else before + deadline_s
        asyncio.run(caller.ask(request, deadline=deadline, network_s=0.02))
        after = time.monotonic()
        for found in caller.gateway.deadlines:
            if expected_s is None:
                assert found is None
            else:
                assert found is not None and before + expected_s <= found <= after + expected_s


def test_an_auction_without_time_left_is_answered_empty_and_nobody_is_asked() -> None:
    caller = Caller()
    response = asyncio.run(caller.ask(auction(), deadline=time.monotonic() - 1))
    assert response.id == "q" and not response.mutations
    assert not caller.gateway.asked and caller.noted == {("brand", "late"): 1, ("mfa", "late"): 2}


def test_test_auctions_are_asked_as_tests() -> None:
    for is_test in (True, False):
        caller = Caller()
        request = auction()
        request.bid_request.test = is_test
        asyncio.run(caller.ask(request))
        assert {asked.test for asked in caller.gateway.asked} == {is_test}


def test_one_user_stays_on_one_arm_and_a_decision_keeps_its_name() -> None:
    caller = Caller()
    request = auction()
    request.bid_request.user.id = "user"
    for _ in range(2):
        asyncio.run(caller.ask(request))
    assert {asked.routing_key for asked in caller.gateway.asked} == {"user"}
    names = [asked.decision_id for asked in caller.gateway.asked]
    assert names[:3] == names[3:] and len(set(names)) == 3


def test_a_missing_or_unusable_input_asks_nobody() -> None:
    caller = Caller()
    request = auction()
    request.bid_request.site.ClearField("content")
    request.bid_request.site.domain = " "
    assert not asyncio.run(caller.ask(request)).mutations
    assert caller.noted == {("brand", "no_input"): 1, ("mfa", "no_input"): 2}


def test_a_long_text_is_cut_to_what_the_task_takes() -> None:
    caller = Caller()
    request = auction()
    request.bid_request.site.content.title = "\N{PILE OF POO}" * 30_000
    assert asyncio.run(caller.ask(request)).mutations
    text = next(a for a in caller.gateway.asked if a.specialist == "brand").input.fields["text"].text
    assert TASK.max_input_bytes - 32 <= len(text.encode()) <= TASK.max_input_bytes


def test_more_decisions_than_a_call_may_have_are_left_out_and_counted() -> None:
    caller = Caller(rules=RULES[1:2])
    request = auction()
    for i in range(MAX_UNITS):
        request.bid_request.imp.add(id=f"more-{i}")
    asyncio.run(caller.ask(request))
    assert caller.noted == {("mfa", "answered"): MAX_UNITS, ("mfa", "over_limit"): 2}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (artf_pb2.RTBRequest(), "id is empty"),
        (artf_pb2.RTBRequest(id="q"), "bid_request is missing"),
        (rtb_pb2.JsonRequest(id="q", bid_request=b"{"), "bid_request is not JSON"),
        (rtb_pb2.JsonRequest(id="q", bid_request=b"{}", bid_response=b"[]"), "bid_response is list at the top"),
    ],
    ids=["no id", "no auction", "half a JSON", "a list"],
)
def test_a_wrong_question_is_refused_by_name(request_: Any, words: str) -> None:
    with pytest.raises(PromptRejected) as refused:
        asyncio.run(Caller().ask(request_))
    assert words in str(refused.value)


def test_json_is_answered_as_protobuf_is() -> None:
    request = auction()
    as_json = {
        "id": "auction",
        "site": {"domain": "news.example", "content": {"title": "a title"}},
        "source": {"schain": {"nodes": [{"asi": "ssp.example", "sid": "1"}]}},
        "imp": [{"id": n, "bidfloor": 2, "pmp": {"deals": [{"id": f"deal-{n}", "bidfloor": 4.5}]}} for n in "12"],
    }
    said = rtb_pb2.JsonRequest(lifecycle=BEFORE, id="q", bid_request=json.dumps(as_json).encode())
    assert asyncio.run(Caller().ask(said)) == asyncio.run(Caller().ask(request))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the OpenRTB samples are not on this machine")
def test_every_published_sample_is_routed() -> None:
    paths = ["request.site.domain", "request.app.bundle", "request.id", "request.site.page", "request.imp.id"]
    rule = MutationRule.from_json({**BRAND, "inputs": {"text": paths}, "add_cids": {}}, "rule")
    lines = gzip.decompress((SAMPLES / "requests.jsonl.gz").read_bytes()).splitlines()

    async def story() -> tuple[int, int]:
        caller = Caller(rules=(rule,))
        mutations = 0
        for i, line in enumerate(lines):
            data = json.dumps(json.loads(line)["openrtb"]).encode()
            response = await caller.ask(rtb_pb2.JsonRequest(lifecycle=BEFORE, id=str(i), bid_request=data))
            assert response.id == str(i)
            mutations += len(response.mutations)
        assert caller.noted["brand", "answered"] + caller.noted["brand", "no_input"] == len(lines)
        return mutations, caller.noted["brand", "answered"]

    mutations, answered = asyncio.run(story())
    assert answered > 0.9 * len(lines) and mutations >= answered


def test_feedback_becomes_outcomes_unless_the_auction_was_a_test() -> None:
    feedback = rtb_pb2.Feedback(id="q")
    feedback.verdicts.add(intent=artf_pb2.ADD_CIDS, path="/site/content/data", result=rtb_pb2.Verdict.REJECTED)
    feedback.notices.add(path="/seatbid/s/bid/b1", result=rtb_pb2.Notice.LOST, price=10, submitted=8, min_bid_to_win=9)
    feedback.notices.add(path="/seatbid/s/bid/b2", result=rtb_pb2.Notice.WON, price=10, submitted=8)

    async def story() -> None:
        caller = Caller()
        await caller.ask(auction())
        receipt = await caller.report(feedback)
        assert (receipt.recorded, receipt.censored, receipt.unmapped, receipt.dropped) == (2, 1, 0, 0)
        assert [(o.specialist, o.label, o.source) for o in caller.gateway.outcomes] == [
            ("brand", "safe", "mutation rejected"),
            ("shade", "high", "loss notice"),
        ]
        asked = {a.specialist: a.decision_id for a in caller.gateway.asked}
        assert caller.gateway.outcomes[0].decision_id == asked["brand"]
        feedback.test = True
        receipt = await caller.report(feedback)
        assert (receipt.recorded, receipt.censored) == (0, 1) and len(caller.gateway.outcomes) == 2

    asyncio.run(story())


def test_a_label_that_the_task_does_not_have_is_refused_before_anything_is_recorded() -> None:
    wrong = MutationRule.from_json({**BRAND, "accepted_label": "fine"}, "rule")
    feedback = rtb_pb2.Feedback(id="q")
    for result in (rtb_pb2.Verdict.REJECTED, rtb_pb2.Verdict.ACCEPTED):
        feedback.verdicts.add(intent=artf_pb2.ADD_CIDS, result=result)
    caller = Caller(rules=(wrong,))
    with pytest.raises(PromptRejected) as refused:
        asyncio.run(caller.report(feedback))
    assert "'fine', expected one of safe, unsafe" in str(refused.value) and not caller.gateway.outcomes
