"""One person takes a bundle out of traffic at the gateway itself, with everything else away."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import NothingToLeave, RollbackForbidden
from protos.contract.plan import Split
from protos.contract.plan_rules import no_split_digest
from tests.gateway.serving.plans import Site
from tests.tasks import TASK


def test_a_canary_is_left_at_once_and_stays_left_after_a_restart(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    order = site.plan.roll_back(site.order(site.new))
    assert (order.person, site.in_force().candidate, site.in_force().canary_bp) == ("oli", None, 0)
    site.restarted()
    assert (site.in_force().primary, site.in_force().candidate) == (site.old, None)
    assert [made.salt for made in site.plan.rollbacks] == ["r-1"]


def test_a_promoted_bundle_gives_way_to_the_one_before(tmp_path: Path) -> None:
    site = Site(tmp_path).promoted()
    site.plan.roll_back(site.order(site.new, "ann"))
    assert (site.in_force().primary, site.in_force().previous) == (site.old, None)
    site.restarted()
    assert site.in_force().primary == site.old


def test_a_disk_that_cannot_be_written_does_not_stop_it(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    site.plan._file.path = tmp_path / "bundles" / "no" / "such"
    (tmp_path / "bundles" / "no").write_text("a file where a folder should be")
    site.plan.roll_back(site.order(site.new))
    assert site.in_force().candidate is None


def test_a_control_plane_that_has_not_heard_of_it_cannot_undo_it(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    before = site.in_force()
    site.plan.roll_back(site.order(site.new))
    for undone in (replace(before, canary_bp=2_000), replace(before, salt="r-2"), replace(before, canary_bp=0)):
        assert site.publish(undone) == "applied"
        assert site.in_force().candidate is None and len(site.plan.rollbacks) == 1
        site.restarted()
        assert site.in_force().candidate is None


def test_it_keeps_no_plan_of_another_specialist_away_and_no_promotion_undoes_it(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    canary = site.in_force()
    task = replace(TASK, name="other")
    other = site.store.add(
        task=task, engine={"backend": "simulator", "seed": 4}, contents={}, base={}, lineage={"author": "trainer"}
    ).digest
    first = Split("other", other, None, None, 0, 0, 100, 0, "o-1")
    nothing = {"from_split": no_split_digest("other"), "specialist": "other"}
    site.approve(first, other, "ann", "bob", **nothing)
    site.plan.roll_back(site.order(site.new))
    assert site.publish(replace(canary, canary_bp=2_000), first) == "applied"
    assert site.plan.routes is not None and set(site.plan.routes.by_name) == {"brand", "other"}
    # Two people promote it elsewhere, and begin the next rollout, before anybody hears of what was done here.
    promoted = site.split(primary=site.new, previous=site.old, salt="r-1")
    site.approve(promoted, site.new, "ann", "bob", before=canary)
    assert site.publish(promoted, first) == "applied"
    assert site.publish(replace(promoted, candidate=site.bundle(5), shadow_bp=100, salt="r-2"), first) == "applied"
    assert (site.in_force().primary, site.in_force().candidate) == (site.old, None)
    # Nor can whoever holds the plan key undo it by taking the way back away.
    assert site.publish(replace(promoted, previous=None), first) == "approval_mismatch"
    assert site.publish(site.split(salt="r-2"), first) == "applied"
    assert not site.plan.rollbacks and site.in_force().primary == site.old
    assert site.publish(replace(canary), first) == "approval_spent"


def test_a_plan_that_carries_it_ends_it_and_it_is_told_until_the_ledger_has_it(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    order = site.plan.roll_back(site.order(site.new))
    site.plan.note_recorded([order.digest])
    assert site.plan.rollbacks, "the bundle is still to be left here"
    assert site.publish(site.split(salt="r-1")) == "applied"
    for _ in range(2):
        assert not site.plan.rollbacks and [made.salt for made in site.plan.to_tell] == ["r-1"]
        site.plan.note_recorded(["sha256:" + "0" * 64])
        site.restarted()
    site.plan.note_recorded([order.digest])
    assert not site.plan.to_tell and not site.restarted().to_tell
    again = site.split(candidate=site.new, shadow_bp=5_000, salt="r-2")
    assert site.publish(again) == "applied"
    site.approve(again, site.new, "ann", "bob", ceiling_bp=2_000)
    assert site.publish(replace(again, canary_bp=500)) == "applied"
    with pytest.raises(NothingToLeave):
        site.plan.roll_back(site.order(site.new))  # the first order, once more
    assert site.in_force().canary_bp == 500


def test_the_same_order_twice_is_one_rollback(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    envelope = site.order(site.new)
    assert site.plan.roll_back(envelope) == site.plan.roll_back(envelope)
    assert len(site.plan.rollbacks) == 1


@pytest.mark.parametrize(
    ("by", "changes", "reason"),
    [
        ("own", {"audience": "staging"}, "wrong_audience"),
        ("oli", {"expires": 1_000_000}, "approval_expired"),
        ("oli", {"not_before": 1_100_000}, "approval_not_yet_valid"),
        ("oli", {"person": "ann"}, "approver_unknown"),
        ("nobody", {}, "signature_invalid"),
    ],
)
def test_an_order_has_to_be_somebody_s_for_here_and_now(
    tmp_path: Path, by: str, changes: dict[str, object], reason: str
) -> None:
    site = Site(tmp_path).canaried()
    with pytest.raises(RollbackForbidden) as refused:
        site.plan.roll_back(site.order(site.new, by, **changes))
    assert refused.value.reason == reason
    assert site.in_force().canary_bp == 500


def test_a_bundle_without_one_before_it_cannot_be_left(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    with pytest.raises(NothingToLeave):
        site.plan.roll_back(site.order(site.old))


def test_nothing_unapproved_can_be_put_where_one_person_s_order_leads(tmp_path: Path) -> None:
    site = Site(tmp_path).bootstrapped()
    assert site.publish(site.split(previous=site.new)) == "way_back_unknown"
    site = Site(tmp_path / "b").promoted()
    evil = site.bundle(9)
    assert site.publish(replace(site.in_force(), previous=evil)) == "way_back_unknown"
    assert site.publish(replace(site.in_force(), previous=site.new)) == "applied"
    with pytest.raises(NothingToLeave):  # the way back leads to the same bundle
        site.plan.roll_back(site.order(site.new))
