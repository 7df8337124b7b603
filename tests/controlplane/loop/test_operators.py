"""The list of people is a file that an administrator may edit, and the plan that stands has to stand under it."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.__main__ import build
from protos.contract.attestation import Operators, public_text
from protos.contract.digest import canonical_json
from protos.contract.fields import FieldInvalid
from protos.contract.operators import Operator, Revoked
from tests.controlplane.loop.fixture import World, world

OTHER = public_text(Ed25519PrivateKey.generate().public_key())


@pytest.fixture
def standing(tmp_path: Path) -> World:
    """A first plan, approved by ann, stands."""
    made = world(tmp_path)
    made.first_plan(made.bundle())
    return made


def edit(made: World, **changes: object) -> Operators:
    path = made.root / "operators.json"
    people = Operators.read(path)
    path.write_bytes(canonical_json(replace(people, **changes).to_json()))  # type: ignore[arg-type]
    return people


def test_a_list_without_whoever_approved_what_stands_stops_the_control_plane_at_its_start(standing: World) -> None:
    edit(standing, people=(Operator("bob", ("approver",), (OTHER,)),))
    with pytest.raises(FieldInvalid, match=r"operators\.json: plan 1 stands, and would not under version 1 \("):
        build(standing.deployment.settings, lambda: None)


def test_a_list_that_asks_for_more_people_than_approved_what_stands_stops_it_too(standing: World) -> None:
    edit(standing, required_approvals=2)
    with pytest.raises(FieldInvalid, match="no more required_approvals than it has"):
        build(standing.deployment.settings, lambda: None)


def test_one_whose_key_was_revoked_does_not_stop_it(standing: World) -> None:
    key = Operators.read(standing.root / "operators.json").people[0].keys[0]
    edit(standing, revoked=(Revoked(key, 0),))
    started = build(standing.deployment.settings, lambda: None)
    assert started.operators().revoked_since(key) == 0
    started.store.close()
