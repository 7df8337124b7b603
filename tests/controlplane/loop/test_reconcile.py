"""A rollback made at a gateway is in the ledger once, whether or not anybody may still follow it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.loop.reconcile import reconcile
from controlplane.store import ledger
from protos import traffic_pb2
from protos.contract.attestation import STATEMENT_TYPE, Operators, read_private, sign
from protos.contract.digest import canonical_json
from protos.contract.operators import Revoked
from protos.contract.rollback import RollbackOrder
from tests.controlplane.loop.fixture import NAME, ZERO, World, world


def told(site: World, order: traffic_pb2.Envelope) -> tuple[bool, list[ledger.Entry]]:
    """Have a gateway report that it carried out an order; return its answer and what the ledger says of rollbacks."""
    made = traffic_pb2.LocalRollback(order=order, at_unix_ms=7_000, took_us=400, generation=1, salt="r-0")
    with site.deployment.store.writing(site.clock()) as unit:
        answer = reconcile(unit, site.deployment, "g", made)
        found = [e for e in ledger.entries(unit.connection, 0, 1000) if e.action.startswith("rollback.")]
    return answer, found


def order(root: Path, **changes: Any) -> traffic_pb2.Envelope:
    made = RollbackOrder("ann", NAME, ZERO, "test", 0, 600, "n", "callers complain")
    return sign(replace(made, **changes).payload(), STATEMENT_TYPE, read_private(root / "ann.key"))


def with_people(root: Path, **changes: Any) -> None:
    people = Operators.read(root / "operators.json")
    (root / "operators.json").write_bytes(canonical_json(replace(people, **changes).to_json()))


@pytest.mark.parametrize(
    ("person", "refused"), [("revoked", "key_revoked"), ("removed", "signature_invalid"), ("away", "wrong_audience")]
)
def test_the_order_of_somebody_who_may_not_give_it_now_is_recorded_and_not_followed(
    tmp_path: Path, person: str, refused: str
) -> None:
    site = world(tmp_path)
    bundle = site.bundle(1)
    site.first_plan(bundle)
    given = order(tmp_path, bundle=bundle, audience="staging" if person == "away" else "test")
    if person == "revoked":
        key = Operators.read(tmp_path / "operators.json").people[0].keys[0]
        with_people(tmp_path, revoked=(Revoked(key, 1_000),))
    elif person == "removed":
        with_people(tmp_path, people=())
    for _ in range(2):
        answer, (entry,) = told(site, given)
        assert answer and (entry.action, entry.actor) == ("rollback.not_followed", "g")
    assert entry.detail["refused"] == refused
    assert (entry.detail["person"], entry.detail["at_ms"], entry.detail["bundle"]) == ("ann", 7_000, bundle)


def test_an_order_is_recorded_once_with_its_time_though_nothing_of_its_bundle_is_left(tmp_path: Path) -> None:
    site = world(tmp_path)
    site.first_plan(site.bundle(1))
    for _ in range(2):
        answer, (entry,) = told(site, order(tmp_path))
        assert answer and (entry.action, entry.actor) == ("rollback.local", "ann")
    assert (entry.detail["at_ms"], entry.detail["took_us"], entry.detail["gateway"]) == (7_000, 400, "g")


def test_what_is_no_order_is_not_recorded(tmp_path: Path) -> None:
    site = world(tmp_path)
    assert told(site, traffic_pb2.Envelope(payload=b"{}")) == (False, [])
