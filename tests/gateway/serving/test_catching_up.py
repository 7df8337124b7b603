"""A gateway that was away follows what was decided meanwhile, step by step, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from protos.contract.plan import Split
from tests.gateway.serving.plans import STAGES, Site

DAY_S = 86_400


class Away:
    """A site whose gateway missed a promotion and the beginning of the next rollout, a day ago."""

    def __init__(self, root: Path) -> None:
        self.site = site = Site(root).canaried()
        site.plan.note_newest(site.generation)
        canary = site.in_force()
        self.promoted = site.split(primary=site.new, previous=site.old, salt="r-1")
        site.approve(self.promoted, site.new, "ann", "bob", before=canary)
        site.missed(self.promoted)
        self.third = site.bundle(3)
        self.next = replace(self.promoted, candidate=self.third, shadow_bp=100, salt="r-2")
        site.missed(self.next)
        site.now += DAY_S

    def canary(self, **changes: object) -> Split:
        return replace(self.next, canary_bp=STAGES[0], **changes)  # type: ignore[arg-type]


def test_a_gateway_that_missed_a_promotion_takes_the_plan_that_stands(tmp_path: Path) -> None:
    away = Away(tmp_path)
    away.site.restarted()
    assert away.site.publish(away.next) == "applied"
    assert away.site.in_force() == away.next
    away.site.restarted()
    assert away.site.in_force() == away.next


def test_a_step_that_nobody_approved_is_passed_over_and_so_leads_nowhere(tmp_path: Path) -> None:
    away = Away(tmp_path)
    away.site.missed(away.canary())
    assert away.site.publish(away.canary()) == "approval_missing"
    assert away.site.publish(away.next) == "applied"


def test_a_step_that_the_ledger_does_not_hold_is_none(tmp_path: Path) -> None:
    away = Away(tmp_path)
    offer = away.site.offer_of(away.next)
    del offer.records[[i for i, r in enumerate(offer.records) if b"plan.offered" in r.body][0]]
    assert away.site.said(offer) == "approval_mismatch"


def test_an_approval_that_lapsed_while_this_gateway_was_listening_moves_nothing_however_a_plan_is_dated(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path).shadowed()
    site.approve(site.in_force(), site.new, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
    began, site.now = site.now, site.now + DAY_S
    site.plan.note_newest(site.generation)
    site.restarted()
    site.now, late = began, site.now
    offer = site.offer_of(site.canary())  # dated back
    site.now = late
    assert site.said(offer) == "approval_expired"
    assert site.in_force().canary_bp == 0


@pytest.mark.parametrize("newest", [0, 10_000])
def test_a_gateway_that_knows_of_a_newer_plan_or_of_none_is_not_current(tmp_path: Path, newest: int) -> None:
    away = Away(tmp_path)
    away.site.plan.note_newest(newest)
    assert away.site.publish(away.next) == "applied"


def test_what_was_taken_back_meanwhile_does_not_return_on_the_approvals_of_then(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    shadow = site.in_force()
    site.approve(shadow, site.new, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
    site.missed(site.canary())
    site.missed(site.split(salt="r-1"))
    assert site.publish(shadow) == "applied"
    assert site.publish(site.canary()) == "approval_spent"
    site.approve(shadow, site.new, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
    assert site.publish(site.canary()) == "applied"


def test_approvals_given_after_it_was_taken_back_count(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    shadow = site.in_force()
    site.approve(shadow, site.new, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
    site.missed(site.canary())
    site.missed(site.split(salt="r-1"))
    site.missed(shadow)
    site.approve(shadow, site.new, "ann", "eve", ceiling_bp=2_000, stages_bp=STAGES)
    assert site.publish(site.canary()) == "applied"


def test_a_bundle_left_here_stays_left_through_what_was_missed(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    canary = site.in_force()
    site.plan.roll_back(site.order(site.new))
    promoted = site.split(primary=site.new, previous=site.old, salt="r-1")
    site.approve(promoted, site.new, "ann", "bob", before=canary)
    site.missed(promoted)
    third = site.bundle(3)
    shadow = replace(promoted, candidate=third, shadow_bp=100, salt="r-2")
    site.missed(shadow)
    site.now += DAY_S
    assert site.publish(shadow) == "applied"
    assert site.in_force().primary == site.old and site.plan.rollbacks
    # Once the control plane carries it, the next rollout is like any other.
    assert site.publish(site.split(salt="r-1")) == "applied" and not site.plan.rollbacks
    again = site.split(candidate=third, shadow_bp=100, salt="r-3")
    assert site.publish(again) == "applied"
    site.approve(again, third, "ann", "bob", ceiling_bp=2_000, stages_bp=STAGES)
    assert site.publish(replace(again, canary_bp=500)) == "applied"
