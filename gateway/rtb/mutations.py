"""From an auction to questions, and from answers to mutations."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gateway.domain.decision import Decision
from gateway.rtb.paths import Path, Scalar
from gateway.rtb.rules import BidShade, MutationRule
from protos import artf_pb2, decide_pb2, openrtb_pb2
from protos.contract.task import Field, TaskSpec

API_VERSION = "1.0"
DEFAULT_CURRENCY = "USD"
ROUTING_KEYS = tuple(Path.parse(text, "") for text in ("request.user.id", "request.device.ifa", "request.id"))
PRICE_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Unit:
    """One decision to take: by which rule, about what. ``key`` names the thing as a mutation's path does."""

    rule: MutationRule
    key: str
    roots: Mapping[str, Message]


def units_of(rules: Sequence[MutationRule], request: artf_pb2.RTBRequest) -> Iterator[Unit]:
    """List the decisions that an auction asks for, in the order of the rules."""
    wanted = set(request.applicable_intents)
    for rule in rules:
        if rule.lifecycle == request.lifecycle and (not wanted or wanted.intersection(rule.intents)):
            yield from _units(rule, request)


def _units(rule: MutationRule, request: artf_pb2.RTBRequest) -> Iterator[Unit]:
    asked = request.bid_request
    if rule.scope == "request":
        yield Unit(rule, "", {"request": asked})
    elif rule.scope == "imp":
        for imp in asked.imp:
            yield Unit(rule, imp_path(imp), {"request": asked, "imp": imp})
    else:
        imps = {imp.id: imp for imp in asked.imp}
        for seat in request.bid_response.seatbid:
            for bid in seat.bid:
                roots: dict[str, Message] = {"request": asked, "seatbid": seat, "bid": bid}
                if bid.impid in imps:
                    roots["imp"] = imps[bid.impid]
                    for deal in imps[bid.impid].pmp.deals:
                        if bid.dealid and deal.id == bid.dealid:
                            roots["deal"] = deal
                yield Unit(rule, bid_path(seat, bid), roots)


def imp_path(imp: openrtb_pb2.BidRequest.Imp) -> str:
    """Name an impression."""
    return f"/imp/{imp.id}"


def bid_path(seat: openrtb_pb2.BidResponse.SeatBid, bid: openrtb_pb2.BidResponse.Bid) -> str:
    """Name a bid."""
    return f"/seatbid/{seat.seat}/bid/{bid.id}"


def decision_id(request_id: str, originator: artf_pb2.Originator, specialist: str, key: str) -> str:
    """Name a decision so that feedback, which has the same facts, finds it without any memory here."""
    facts = (request_id, str(int(originator.type)), originator.id, specialist, key)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]


def routing_key(request: openrtb_pb2.BidRequest) -> str:
    """Choose what stays on one arm: the user, else the device, else the auction."""
    for path in ROUTING_KEYS:
        if found := path.read({"request": request}):
            return str(found[0])[:256]
    return ""


def input_of(unit: Unit, task: TaskSpec) -> decide_pb2.Input | None:
    """Read a task's input from an auction; None where a required field is absent or of another kind."""
    given = decide_pb2.Input()
    room = task.max_input_bytes
    for field in task.fields:
        found = [value for path in unit.rule.inputs.get(field.name, ()) for value in path.read(unit.roots)]
        if not found and field.name in unit.rule.absent:
            found = [unit.rule.absent[field.name]]
        value = _value(field, found, room)
        if value is None:
            if field.required:
                return None
            continue
        given.fields[field.name].CopyFrom(value)
        room -= value.ByteSize() + len(field.name) + 8
    return given if given.fields else None


def _value(field: Field, found: list[Scalar], room: int) -> decide_pb2.Value | None:
    if field.kind == "text":
        text = " ".join(_text(value) for value in found if value != "")
        cut = text.encode()[: max(room - len(field.name) - 16, 0)].decode(errors="ignore")
        return decide_pb2.Value(text=cut) if cut.strip() else None
    if not found or isinstance(found[0], str):
        return None
    first = found[0]
    if field.kind == "flag":
        return decide_pb2.Value(flag=bool(first))
    if not math.isfinite(first):
        return None
    if field.kind == "integer":
        return decide_pb2.Value(integer=int(first)) if abs(first) < 2**63 else None
    return decide_pb2.Value(number=float(first))


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def mutations_of(unit: Unit, answer: Decision, request: artf_pb2.RTBRequest) -> Iterator[artf_pb2.Mutation]:
    """Propose what an engine's answer calls for, among the intents the exchange will take."""
    rule, wanted = unit.rule, set(request.applicable_intents)

    def is_wanted(intent: int) -> bool:
        return not wanted or intent in wanted

    if rule.metrics is not None and is_wanted(artf_pb2.ADD_METRICS):
        metrics = [_metric(rule.metrics.type, rule.metrics.vendor, answer.score)]
        if rule.metrics.per_label:
            metrics += [
                _metric(f"{rule.metrics.type}.{label}", rule.metrics.vendor, probability)
                for label, probability in zip(answer.labels, answer.probabilities, strict=True)
            ]
        for imp in _imps(unit):
            yield _mutation(
                artf_pb2.ADD_METRICS,
                artf_pb2.OPERATION_ADD,
                imp_path(imp),
                metrics=artf_pb2.MetricsPayload(metric=metrics),
            )
    if rule.cids is not None and is_wanted(artf_pb2.ADD_CIDS) and (cids := rule.cids.by_label.get(answer.label)):
        data = openrtb_pb2.BidRequest.Data(name=rule.cids.vendor)
        data.ext.cids.extend(cids)
        place = request.bid_request.WhichOneof("distributionchannel_oneof") or "site"
        yield _mutation(
            artf_pb2.ADD_CIDS,
            artf_pb2.OPERATION_ADD,
            f"/{place}/content/data",
            content_data=artf_pb2.DataPayload(data=[data]),
        )
    if rule.suppress is not None and is_wanted(artf_pb2.SUPPRESS_DEALS):
        for imp in _imps(unit):
            if deals := [d.id for d in imp.pmp.deals if d.id and rule.suppress.takes(d.id, answer.decision)]:
                ids = artf_pb2.IDsPayload(id=deals)
                yield _mutation(artf_pb2.SUPPRESS_DEALS, artf_pb2.OPERATION_REMOVE, imp_path(imp), ids=ids)
    if rule.shade is not None and is_wanted(artf_pb2.BID_SHADE):
        price = _shaded(rule.shade, unit.roots, answer.decision, request.bid_response.cur or DEFAULT_CURRENCY)
        if price is not None:
            adjusted = artf_pb2.AdjustBidPayload(price=price)
            yield _mutation(artf_pb2.BID_SHADE, artf_pb2.OPERATION_REPLACE, unit.key, adjust_bid=adjusted)


def _mutation(intent: int, op: int, path: str, **payload: Any) -> artf_pb2.Mutation:
    return artf_pb2.Mutation(intent=intent, op=op, path=path, **payload)  # type: ignore[arg-type]


def _metric(kind: str, vendor: str, value: float) -> openrtb_pb2.BidRequest.Metric:
    return openrtb_pb2.BidRequest.Metric(type=kind, value=value, vendor=vendor)


def _imps(unit: Unit) -> Iterable[Any]:
    """The impressions a decision is about: its own, or all of a request's."""
    return (unit.roots["imp"],) if "imp" in unit.roots else unit.roots["request"].imp  # type: ignore[attr-defined]


def _shaded(shade: BidShade, roots: Mapping[str, Any], decision: str, currency: str) -> float | None:
    """Return the lower price to submit, never below a floor of the same currency; None to leave the bid alone."""
    price = roots["bid"].price
    factor = shade.factors.get(decision)
    if factor is None or not price > 0 or not math.isfinite(price):
        return None
    floor = 0.0
    for name in ("imp", "deal"):
        held = roots.get(name)
        if held is not None and held.bidfloorcur == currency:
            floor = max(floor, held.bidfloor)
    shaded = round(max(price * factor, floor), PRICE_DECIMALS)
    return shaded if 0 < shaded < price else None


def metadata(answers: Iterable[tuple[str, Decision]]) -> artf_pb2.Metadata:
    """Name what answered: the plan's generation and each specialist's bundle."""
    found = list(answers)
    parts = [f"generation={max(answer.plan_generation for _, answer in found)}"] if found else []
    parts += sorted({f"{name}={answer.bundle_digest}" for name, answer in found})
    return artf_pb2.Metadata(api_version=API_VERSION, model_version=";".join(parts))
