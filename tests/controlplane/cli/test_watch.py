"""``interlock rollout watch``: what a person sees of a rollout, live."""

import io

import pytest
from rich.console import Console

from controlplane.cli.watch import screen
from protos import control_pb2 as pb
from protos import governance_pb2
from tests.controlplane.cli.fake import FakeControl, interlock

PEOPLE = {"people": [{"person": "ann", "roles": ["approver"]}, {"person": "bob", "roles": ["approver"]}]}


def shown(rollout: pb.Rollout) -> str:
    seen = {"rollout": rollout, "arms": governance_pb2.Arms(), "plans": pb.PlanStatus(), "people": PEOPLE}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(screen(seen))
    return console.export_text()


def test_nobody_is_missed_once_enough_approved() -> None:
    rollout = pb.Rollout(id="r-1", phase="shadow", needs_approval_for="canary", required_approvals=1)
    assert "the step canary waits for 1 more of: ann, bob" in shown(rollout)
    rollout.approvals.add(person="bob", step="canary", ceiling_bp=100, reason="reviewed")
    text = shown(rollout)
    assert "approved by bob up to 1 %" in text and "waits for" not in text


def test_what_a_rollout_waits_for_is_read_to_its_end(control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    control.rollouts = [pb.Rollout(id="r-1", phase="shadow", waiting_for=f"evidence is not yet: {'and ' * 60}so on")]
    seen = {"rollout": control.rollouts[0], "arms": governance_pb2.Arms(), "plans": pb.PlanStatus(), "people": PEOPLE}
    monkeypatch.setattr("controlplane.cli.watch._look", lambda *_: seen)
    assert "so on" in interlock("rollout", "watch", "brand", "--once")[1]
