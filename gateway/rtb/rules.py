"""Which specialist feeds which intent, from which part of an auction: the ``[[gateway.mutations]]`` tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gateway.rtb.paths import Path, Ratio, parse_source
from protos import artf_pb2
from protos.contract.fields import FieldInvalid, Reader

LIFECYCLES = {name.removeprefix("LIFECYCLE_").lower(): number for name, number in artf_pb2.Lifecycle.items() if number}
SCOPES = ("request", "imp", "bid")
_READABLE = {
    "request": ("request",),
    "imp": ("request", "imp"),
    "bid": ("request", "imp", "deal", "seatbid", "bid"),
}


@dataclass(frozen=True, slots=True)
class AddMetrics:
    """ADD_METRICS: the score as an impression's metric; with ``per_label``, each label's probability too."""

    type: str
    vendor: str
    per_label: bool


@dataclass(frozen=True, slots=True)
class AddCids:
    """ADD_CIDS: content ids by the label that was chosen."""

    vendor: str
    by_label: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SuppressDeals:
    """SUPPRESS_DEALS: which decisions take an impression's deals away.

    ``by_deal`` has those of a deal whose buyer bears more or less than others do: a brand's policy.
    """

    decisions: tuple[str, ...]
    by_deal: Mapping[str, tuple[str, ...]]

    def takes(self, deal: str, decision: str) -> bool:
        """Say whether a decision takes a deal away."""
        return decision in self.by_deal.get(deal, self.decisions)


@dataclass(frozen=True, slots=True)
class BidShade:
    """BID_SHADE: what each decision makes of a price, and how feedback becomes a label.

    Attributes:
        factors: Share of the price that a decision submits, in (0, 1].
        thresholds: (label, most that minimum bid to win / price may be for it), rising. The last label
            has no bound: no bid up to the price would have won.
    """

    factors: Mapping[str, float]
    thresholds: tuple[tuple[str, float], ...]
    above: str


@dataclass(frozen=True, slots=True)
class MutationRule:
    """One specialist's part in ``GetMutations``.

    ``scope`` is what one decision is about: the whole request, each impression, or each bid.
    ``inputs`` maps the task's fields to paths or quotients of two; several are joined by spaces, absent ones left out.
    ``absent`` has what a field is where an auction says nothing of it: an impression without a floor has none.
    """

    specialist: str
    lifecycle: int
    scope: str
    inputs: Mapping[str, tuple[Path | Ratio, ...]]
    absent: Mapping[str, float]
    metrics: AddMetrics | None
    cids: AddCids | None
    suppress: SuppressDeals | None
    shade: BidShade | None
    accepted_label: str | None
    rejected_label: str | None

    @property
    def intents(self) -> tuple[int, ...]:
        """The intents this rule can answer."""
        kinds = (
            (self.metrics, artf_pb2.ADD_METRICS),
            (self.cids, artf_pb2.ADD_CIDS),
            (self.suppress, artf_pb2.SUPPRESS_DEALS),
            (self.shade, artf_pb2.BID_SHADE),
        )
        return tuple(intent for kind, intent in kinds if kind is not None)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read one table; raises FieldInvalid."""
        read = Reader(value, where)
        scope = read.text("scope", choices=SCOPES)
        usual = "dsp_bid_response" if scope == "bid" else "publisher_bid_request"
        inputs, absent = _inputs(read.object("inputs"), scope, f"{where}.inputs")
        rule = cls(
            specialist=read.text("specialist"),
            lifecycle=LIFECYCLES[read.text("lifecycle", usual, choices=tuple(LIFECYCLES))],
            scope=scope,
            inputs=inputs,
            absent=absent,
            metrics=_metrics(read.object("add_metrics", {}), f"{where}.add_metrics"),
            cids=_cids(read.object("add_cids", {}), f"{where}.add_cids"),
            suppress=_suppress(read.object("suppress_deals", {}), f"{where}.suppress_deals"),
            shade=_shade(read.object("bid_shade", {}), f"{where}.bid_shade"),
            accepted_label=read.maybe_text("accepted_label"),
            rejected_label=read.maybe_text("rejected_label"),
        )
        read.done()
        if not rule.intents:
            raise FieldInvalid(f"{where} names no intent, expected add_metrics, add_cids, suppress_deals or bid_shade")
        if (rule.shade is not None) != (scope == "bid") or (scope == "bid" and len(rule.intents) > 1):
            raise FieldInvalid(f"{where}.scope is {scope!r}, expected 'bid' for bid_shade and for nothing else")
        return rule


def _inputs(
    value: dict[str, Any], scope: str, where: str
) -> tuple[dict[str, tuple[Path | Ratio, ...]], dict[str, float]]:
    inputs, absent = {}, {}
    for name, said in value.items():
        texts = list(said) if isinstance(said, list) else [said]
        if len(texts) > 1 and isinstance(texts[-1], int | float):
            absent[name] = texts.pop()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise FieldInvalid(
                f"{where}.{name} is {said!r}, expected a path or a list of paths, at its end perhaps a number for none"
            )
        paths = tuple(parse_source(text, f"{where}.{name}") for text in texts)
        for path in [p for s in paths for p in ((s.above, s.below) if isinstance(s, Ratio) else (s,))]:
            if path.root not in _READABLE[scope]:
                raise FieldInvalid(f"{where}.{name} is {path.text!r}, expected one of {', '.join(_READABLE[scope])}")
        inputs[name] = paths
    if not inputs:
        raise FieldInvalid(f"{where} is empty, expected the task's fields")
    return inputs, absent


def _metrics(value: dict[str, Any], where: str) -> AddMetrics | None:
    if not value:
        return None
    read = Reader(value, where)
    metrics = AddMetrics(read.text("type"), read.text("vendor"), read.flag("per_label", False))
    read.done()
    return metrics


def _cids(value: dict[str, Any], where: str) -> AddCids | None:
    if not value:
        return None
    read = Reader(value, where)
    vendor, table = read.text("vendor"), read.object("by_label")
    read.done()
    labels = Reader(table, f"{where}.by_label")
    return AddCids(vendor, {label: labels.texts(label) for label in table})


def _suppress(value: dict[str, Any], where: str) -> SuppressDeals | None:
    if not value:
        return None
    read = Reader(value, where)
    decisions, policies = read.texts("decisions"), read.object("by_deal", {})
    read.done()
    deals = Reader(policies, f"{where}.by_deal")
    return SuppressDeals(decisions, {deal: deals.texts(deal) for deal in policies})


def _shade(value: dict[str, Any], where: str) -> BidShade | None:
    if not value:
        return None
    read = Reader(value, where)
    factors, thresholds, above = read.object("factors"), read.object("thresholds"), read.text("above")
    read.done()
    shares = Reader(factors, f"{where}.factors")
    bounds = Reader(thresholds, f"{where}.thresholds")
    shade = BidShade(
        factors={name: shares.number(name, 0.01, 1.0) for name in factors},
        thresholds=tuple((name, bounds.number(name, 0.0, 1.0)) for name in thresholds),
        above=above,
    )
    found = [bound for _, bound in shade.thresholds]
    if not shade.factors or not found or sorted(set(found)) != found:
        raise FieldInvalid(f"{where}.thresholds is {thresholds!r}, expected rising bounds; factors must not be empty")
    return shade
