"""What notices say about the bid that would have won."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PromptRejected
from gateway.rtb.feedback import CENSORED, UNMAPPED, findings, label_of
from gateway.rtb.mutations import decision_id
from gateway.rtb.rules import BidShade
from protos import artf_pb2
from protos.rtb_pb2 import Feedback, Notice, Verdict
from tests.gateway.rtb.rules import RULES

SHADE = RULES[2].shade
assert SHADE is not None
WON, LOST = Notice.WON, Notice.LOST
PATH = "/seatbid/s/bid/1"


def notice(result: int, submitted: float, **more: object) -> Notice:
    return Notice(path=PATH, result=result, price=10.0, submitted=submitted, **more)  # type: ignore[arg-type]


CASES = {
    "told, in the first bucket": (notice(WON, 8.0, min_bid_to_win=3.0), "low"),
    "told, at a bound": (notice(WON, 8.0, min_bid_to_win=5.0), "low"),
    "told, beyond the price": (notice(LOST, 8.0, min_bid_to_win=10.5), "beyond"),
    "won at the lowest bucket": (notice(WON, 5.0), "low"),
    "won higher: any bucket up to there": (notice(WON, 8.0), None),
    "lost unshaded": (notice(LOST, 10.0), "beyond"),
    "lost shaded: any bucket above": (notice(LOST, 8.0), None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_notice_names_a_label_only_when_one_is_left(case: str) -> None:
    said, label = CASES[case]
    assert label_of(SHADE, said) == label


def bucket(shade: BidShade, ratio: float) -> str:
    return next((label for label, bound in shade.thresholds if ratio <= bound + 1e-9), shade.above)


@given(st.floats(0.01, 3.0), st.floats(0.01, 1.0), st.booleans())
def test_no_notice_ever_names_a_label_that_is_not_true(needed: float, submitted: float, is_told: bool) -> None:
    result = WON if submitted >= needed else LOST
    said = notice(result, 10.0 * submitted, min_bid_to_win=10.0 * needed if is_told else 0.0)
    label = label_of(SHADE, said)
    assert label == bucket(SHADE, needed) if is_told else label in (None, bucket(SHADE, needed))


def test_verdicts_and_notices_find_the_decisions_they_are_about() -> None:
    feedback = Feedback(id="q", notices=[notice(LOST, 10.0), notice(WON, 8.0), notice(LOST, 5.0, loss_reason=203)])
    feedback.originator.id = "dsp"
    feedback.verdicts.add(intent=artf_pb2.ADD_CIDS, path="/site/content/data", result=Verdict.REJECTED)
    feedback.verdicts.add(intent=artf_pb2.ADD_METRICS, path="/imp/1", result=Verdict.ACCEPTED, specialist="mfa")
    found = findings(RULES, feedback)
    about = [(f.specialist, f.label, f.why) for f in found]
    assert about == [
        ("brand", "safe", ""),
        ("mfa", None, UNMAPPED),
        ("shade", "beyond", ""),
        ("shade", None, CENSORED),
        ("shade", None, UNMAPPED),
    ]
    assert found[0].decision_id == decision_id("q", feedback.originator, "brand", "")
    assert found[2].decision_id == decision_id("q", feedback.originator, "shade", PATH)


WRONG = {
    "no id": (Feedback(), "id is empty"),
    "no result": (Feedback(id="q", verdicts=[Verdict(intent=artf_pb2.ADD_CIDS)]), "verdicts[0].result is 0"),
    "several feed it": (
        Feedback(id="q", verdicts=[Verdict(intent=artf_pb2.ADD_METRICS, result=Verdict.ACCEPTED)]),
        "verdicts[0].specialist is '', expected one of brand, mfa",
    ),
    "nobody feeds it": (
        Feedback(id="q", verdicts=[Verdict(intent=artf_pb2.ACTIVATE_DEALS, result=Verdict.ACCEPTED)]),
        "feeds ACTIVATE_DEALS",
    ),
    "unknown intent": (Feedback(id="q", verdicts=[Verdict(intent=77, result=Verdict.ACCEPTED)]), "feeds 77"),  # type: ignore[arg-type]
    "price": (Feedback(id="q", notices=[Notice(result=WON)]), "notices[0].price is 0.0"),
    "not a number": (Feedback(id="q", notices=[Notice(result=WON, price=float("nan"))]), "notices[0].price is nan"),
    "more than the price": (Feedback(id="q", notices=[notice(WON, 11.0)]), "notices[0].submitted is 11.0"),
    "negative minimum": (Feedback(id="q", notices=[notice(WON, 9.0, min_bid_to_win=-1.0)]), "min_bid_to_win is -1.0"),
    "too many": (Feedback(id="q", notices=[notice(WON, 9.0)] * 257), "notices has 257 items"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_feedback_is_refused_by_name(case: str) -> None:
    feedback, words = WRONG[case]
    with pytest.raises(PromptRejected) as refused:
        findings(RULES, feedback)
    assert words in str(refused.value)


def test_one_specialist_needs_no_name() -> None:
    feedback = Feedback(id="q", verdicts=[Verdict(intent=artf_pb2.ADD_METRICS, result=Verdict.REJECTED)])
    alone = (replace(RULES[0], accepted_label="unsafe"),)
    assert findings(alone, feedback)[0].label == "safe"
