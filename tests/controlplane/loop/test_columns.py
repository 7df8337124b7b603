"""What is watched of each pack's traffic."""

from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.loop.drift import columns_of
from controlplane.loop.embedding import HashedWords
from controlplane.loop.frame import Frame
from controlplane.loop.monitor import Budget, Monitor
from controlplane.packs.registry import FOLDERS, load_pack
from protos.contract.features import read_fields, read_number

WATCHED = {
    "brand-safety": set(),
    "brand-suitability": set(),
    "mfa-filter": {
        *("ad_share", "slots", "refresh_s", "bought_share", "requests", "template_share", "hops", "schain_complete"),
    },
    "bid-shading": {"floor_share", "landscape_share", "price", "hour", "exchange", "format", "country", "site"},
    "fraud": {
        *("amount", "hour", "payments_today", "days_known", "distance_km", "new_device", "merchant", "country"),
    },
    "credit-risk": {
        *("income", "requested", "burden", "utilisation", "delinquencies", "inquiries", "months_known", "purpose"),
    },
    "clinical-note": set(),
}
TEXTS = {"brand-safety", "brand-suitability", "mfa-filter", "fraud"}  # a clinical note is captured by no field


class Remembering(HashedWords):
    """Keeps what it was asked to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        """Embed as ever."""
        self.asked += texts
        return super().embed(texts)


def rows(name: str, n: int, seed: int = 1) -> list[Any]:
    pack = load_pack(name)
    kinds = {field.name: field.kind for field in pack.task.fields}
    found = []
    for example in islice(pack.stream(seed, 0.0), n):
        fields: dict[str, Any] = {}
        if len(kinds) > 1:
            for field, value in read_fields(example.text, list(kinds)).items():
                if value:
                    fields[field] = read_number(value) if kinds[field] in ("number", "integer") else value
        answer = {"label": example.label, "decision": example.label, "score": 0.5, "confidence": 0.5, "outcome": None}
        found.append(SimpleNamespace(text=example.text, fields=fields, **answer))
    return found


def watched(name: str, given: list[Any]) -> tuple[Frame, list[str]]:
    embedder = Remembering()
    return columns_of(load_pack(name), embedder, given), embedder.asked


@pytest.mark.parametrize("name", FOLDERS)
def test_every_captured_field_is_watched_as_what_it_is(name: str) -> None:
    frame, asked = watched(name, rows(name, 20))
    assert {*frame.numbers, *frame.categories} == WATCHED[name]
    assert (frame.vectors is not None) == bool(asked) == (name in TEXTS)


def test_of_a_payment_only_the_message_is_compared_as_words() -> None:
    given = rows("fraud", 20)
    _, asked = watched("fraud", given)
    assert asked == [row.fields.get("message", "") for row in given]
    assert any(asked)


def test_traffic_from_another_country_stands_out_in_that_field() -> None:
    steady, later = rows("bid-shading", 300), rows("bid-shading", 60, 2)
    for row in later:
        row.fields["country"] = "NZ"
    monitor = Monitor.learn(watched("bid-shading", steady)[0], Budget(60, 0.05), 3)
    assert "field country" in {r.signal for r in monitor.read(watched("bid-shading", later)[0], 4).signals if r.is_over}
