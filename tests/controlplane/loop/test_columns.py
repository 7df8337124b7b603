"""What is watched of each pack's traffic."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.loop.drift import columns_of
from controlplane.loop.embedding import HashedWords
from controlplane.loop.frame import Frame
from controlplane.loop.monitor import Budget, Monitor
from controlplane.loop.observe import observe
from controlplane.packs.folder import to_input
from controlplane.packs.registry import FOLDERS, load_pack
from controlplane.store import samples
from protos.contract.features import read_fields
from tests.controlplane.loop.fixture import ZERO, world

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


def rows(root: Path, name: str, n: int, seed: int = 1, **changed: str) -> list[Any]:
    """Have a control plane keep made-up traffic of a pack, and return it as it is read for drift."""
    found = world(root)
    found.deployment.packs[name] = pack = load_pack(name)
    names = [field.name for field in pack.task.fields]
    records = []
    for number, example in enumerate(islice(pack.stream(seed, 0.0), n)):
        record = found.sample(example.text, bundle=ZERO, label=example.label)
        record.sample.specialist, record.sample.decision_id = name, f"{seed}-{number}"
        if len(names) > 1:
            fields = {field: value for field, value in read_fields(example.text, names).items() if value} | changed
            kinds = {field.name: field.kind for field in pack.task.fields}
            typed = {field: _typed(kinds[field], value) for field, value in fields.items()}
            record.sample.input.CopyFrom(to_input(pack.task, typed))
        records.append(record)
    found.capture(records)
    observe(found.deployment)
    with found.deployment.store.reading() as unit:
        kept = samples.of_primary(unit, name, ZERO, 0, n)
    found.deployment.store.close()
    assert len(kept) == n
    return kept


def _typed(kind: str, value: str) -> Any:
    return {"number": float, "integer": int, "flag": "True".__eq__, "text": str}[kind](value)


def watched(name: str, given: list[Any]) -> tuple[Frame, list[str]]:
    embedder = Remembering()
    return columns_of(load_pack(name), embedder, given), embedder.asked


@pytest.mark.parametrize("name", FOLDERS)
def test_every_captured_field_is_watched_as_what_it_is(tmp_path: Path, name: str) -> None:
    frame, asked = watched(name, rows(tmp_path, name, 20))
    assert {*frame.numbers, *frame.categories} == WATCHED[name]
    assert all(any(column) for column in frame.categories.values())
    assert (frame.vectors is not None) == (name in TEXTS)
    assert any(asked) == (name in TEXTS)


def test_of_a_payment_only_the_message_is_compared_as_words(tmp_path: Path) -> None:
    given = rows(tmp_path, "fraud", 20)
    _, asked = watched("fraud", given)
    assert asked == [row.text.partition("message: ")[2] for row in given]


def test_a_text_that_is_not_of_lines_is_embedded_whole_and_once(tmp_path: Path) -> None:
    row = rows(tmp_path, "brand-suitability", 1)[0]
    _, asked = watched("brand-suitability", [SimpleNamespace(**{**row._mapping, "text": "a page about lemons"})])
    assert asked == ["a page about lemons"]


def test_traffic_from_another_country_stands_out_in_that_field(tmp_path: Path) -> None:
    steady = rows(tmp_path / "steady", "bid-shading", 300)
    later = rows(tmp_path / "later", "bid-shading", 60, 2, country="NZ")
    monitor = Monitor.learn(watched("bid-shading", steady)[0], Budget(60, 0.05), 3)
    assert "field country" in {r.signal for r in monitor.read(watched("bid-shading", later)[0], 4).signals if r.is_over}
