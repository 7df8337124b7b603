"""What became of mutations and bids, as labels of the decisions behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import PromptRejected
from gateway.rtb.mutations import decision_id
from gateway.rtb.rules import BidShade, MutationRule
from protos import artf_pb2, rtb_pb2

MAX_ITEMS = 256
# OpenRTB loss reasons that say something about prices; others, such as a filtered creative, do not.
PRICE_REASONS = (0, 102)
CENSORED = "censored"
UNMAPPED = "unmapped"
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Finding:
    """One decision's label; ``label`` None says with ``why`` that there is none."""

    specialist: str
    decision_id: str
    label: str | None
    source: str
    why: str = ""


def findings(rules: Sequence[MutationRule], feedback: rtb_pb2.Feedback) -> list[Finding]:
    """Read a report; raises PromptRejected naming the item, its value and what was expected."""
    if not feedback.id:
        raise PromptRejected("id is empty, expected that of the RTBRequest")
    for name in ("verdicts", "notices"):
        count = len(getattr(feedback, name))
        if count > MAX_ITEMS:
            raise PromptRejected(f"{name} has {count} items, expected at most {MAX_ITEMS}")
    found = []
    for i, verdict in enumerate(feedback.verdicts):
        where = f"verdicts[{i}]"
        if verdict.result not in (rtb_pb2.Verdict.ACCEPTED, rtb_pb2.Verdict.REJECTED):
            raise PromptRejected(f"{where}.result is {verdict.result}, expected ACCEPTED or REJECTED")
        rule = _rule(rules, verdict.intent, verdict.specialist, where)
        is_accepted = verdict.result == rtb_pb2.Verdict.ACCEPTED
        label = rule.accepted_label if is_accepted else rule.rejected_label
        key = "" if rule.scope == "request" else verdict.path
        source = "mutation accepted" if is_accepted else "mutation rejected"
        found.append(_finding(feedback, rule, key, label, source, UNMAPPED))
    for i, notice in enumerate(feedback.notices):
        where = f"notices[{i}]"
        rule = _rule(rules, artf_pb2.BID_SHADE, notice.specialist, where)
        assert rule.shade is not None  # rules with this intent have it
        _check_prices(notice, where)
        is_won = notice.result == rtb_pb2.Notice.WON
        if not is_won and notice.loss_reason not in PRICE_REASONS and not notice.min_bid_to_win:
            label, why = None, UNMAPPED
        else:
            label, why = label_of(rule.shade, notice), CENSORED
        found.append(_finding(feedback, rule, notice.path, label, "win notice" if is_won else "loss notice", why))
    return found


def label_of(shade: BidShade, notice: rtb_pb2.Notice) -> str | None:
    """Return the only label that a notice leaves possible, None where several are left (a censored observation)."""
    low, high = 0.0, math.inf  # of minimum bid to win / price
    submitted = notice.submitted / notice.price
    if notice.min_bid_to_win > 0:
        low = high = notice.min_bid_to_win / notice.price
    elif notice.result == rtb_pb2.Notice.WON:
        high = submitted
    else:
        low = submitted + 2 * _ROUNDING  # it lost: more would have been needed
    possible = []
    below = 0.0
    for label, bound in (*shade.thresholds, (shade.above, math.inf)):
        # A label holds ratios in (below, bound], the first one from 0 on.
        if low <= bound + _ROUNDING and (high > below + _ROUNDING or below == 0.0):
            possible.append(label)
        below = bound
    return possible[0] if len(possible) == 1 else None


def _finding(
    feedback: rtb_pb2.Feedback, rule: MutationRule, key: str, label: str | None, source: str, why: str
) -> Finding:
    name = decision_id(feedback.id, feedback.originator, rule.specialist, key)
    return Finding(rule.specialist, name, label, source, "" if label is not None else why)


def _rule(rules: Sequence[MutationRule], intent: int, specialist: str, where: str) -> MutationRule:
    feeding = [rule for rule in rules if intent in rule.intents]
    found = [rule for rule in feeding if specialist in ("", rule.specialist)]
    names = ", ".join(rule.specialist for rule in feeding)
    if not found:
        known = intent in artf_pb2.Intent.values()
        said = artf_pb2.Intent.Name(intent) if known else str(intent)  # type: ignore[arg-type]
        raise PromptRejected(f"{where}: {specialist or 'nobody'!r} feeds {said}, expected one of {names or 'none'}")
    if len(found) > 1:
        raise PromptRejected(f"{where}.specialist is {specialist!r}, expected one of {names}: several feed that intent")
    return found[0]


def _check_prices(notice: rtb_pb2.Notice, where: str) -> None:
    if notice.result not in (rtb_pb2.Notice.WON, rtb_pb2.Notice.LOST):
        raise PromptRejected(f"{where}.result is {notice.result}, expected WON or LOST")
    if not (math.isfinite(notice.price) and notice.price > 0):
        raise PromptRejected(f"{where}.price is {notice.price}, expected more than 0")
    if not 0 < notice.submitted <= notice.price * (1 + _ROUNDING):
        raise PromptRejected(f"{where}.submitted is {notice.submitted}, expected more than 0 and at most the price")
    if not (math.isfinite(notice.min_bid_to_win) and notice.min_bid_to_win >= 0):
        raise PromptRejected(f"{where}.min_bid_to_win is {notice.min_bid_to_win}, expected 0 or more")
