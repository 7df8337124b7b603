"""An approval counts by who its signer is, and which keys count, when the move is made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.store import ledger
from protos import control_pb2 as pb
from protos.contract.attestation import public_text
from protos.contract.digest import canonical_json
from protos.contract.ledger_proof import APPROVAL_GIVEN
from protos.contract.operators import Revoked
from tests.gateway.serving.plans import PEOPLE, key
from tests.simulation.plant import Plant, Refused


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A first bundle that two people have to approve."""
    made = Plant(tmp_path, gateways=0)
    made.judge(made.bundles[0], is_accepted=True)
    made.start(made.bundles[0])
    made.tick()
    yield made
    made.close()


def phase(plant: Plant) -> str:
    plant.tick()
    row = plant.rollout()
    assert row is not None
    return row.state.phase.value


def given(plant: Plant) -> list[ledger.Entry]:
    with plant.deployment.store.reading() as unit:
        return ledger.of_action(unit.connection, APPROVAL_GIVEN)


def people(plant: Plant, *, without: str = "", revoked: str = "", since: int = 0) -> None:
    left = tuple(p for p in PEOPLE.people if p.person != without)
    keys = (Revoked(public_text(key(revoked).public_key()), since),) if revoked else ()
    changed = replace(PEOPLE, people=left, revoked=keys)
    (plant.root / "operators.json").write_bytes(canonical_json(changed.to_json()))


@pytest.mark.parametrize("how", ["removed", "revoked"])
def test_one_whose_signer_left_before_the_move_does_not_count_for_it(plant: Plant, how: str) -> None:
    plant.approve("ann")
    (by_ann,) = given(plant)
    if how == "removed":
        people(plant, without="ann")
    else:
        people(plant, revoked="ann", since=by_ann.seq)
    plant.approve("bob")
    assert phase(plant) == "evaluated"
    row = plant.rollout()
    assert row is not None
    shown = plant.call("GetRollout", pb.GetRolloutRequest(id=row.state.id)).approvals
    why = {"removed": "signature_invalid", "revoked": "key_revoked"}[how]
    assert {a.person: a.void_reason for a in shown} == {"ann": why, "bob": ""}
    plant.approve("eve")
    assert phase(plant) == "primary"
    with plant.deployment.store.reading() as unit:
        (promoted,) = ledger.of_action(unit.connection, "rollout.promoted")
    assert sorted(promoted.detail["approvals"]) == sorted(e.detail["statement"] for e in given(plant)[1:])


def test_one_that_the_ledger_had_before_its_key_was_revoked_still_counts(plant: Plant) -> None:
    plant.approve("ann")
    (by_ann,) = given(plant)
    people(plant, revoked="ann", since=by_ann.seq + 1)
    plant.approve("bob")
    assert phase(plant) == "primary"


def test_one_by_a_revoked_key_is_neither_kept_nor_recorded(plant: Plant) -> None:
    people(plant, revoked="ann", since=1)
    with pytest.raises(Refused, match="revoked"):
        plant.approve("ann")
    assert not given(plant)
