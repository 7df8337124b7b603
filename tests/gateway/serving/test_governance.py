"""Nothing but enough people's fresh, recorded approvals of exactly this moves traffic, whoever holds the plan key."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protos import traffic_pb2
from protos.contract.attestation import Operators, add_signature, public_text
from protos.contract.checkpoint import verify_cosignature
from protos.contract.digest import digest_bytes
from protos.contract.ledger_proof import APPROVAL_GIVEN
from protos.contract.memory_ledger import MemoryLedger
from protos.contract.operators import Operator, Revoked, operators_envelope
from protos.contract.plan import TrafficPlan
from protos.contract.plan_rules import sign_plan
from tests.gateway.serving.plans import PEOPLE, Site, key, person

Change = Callable[[Site], None]


def by(*people: str, **changes: object) -> Change:
    def change(site: Site) -> None:
        site.approve(site.in_force(), site.new, *people, ceiling_bp=2_000, **changes)  # type: ignore[arg-type]

    return change


def duplicate_key(site: Site) -> None:
    """One key enrolled for two people, by somebody who edited the list past its checks."""
    twin = Operator("bob", ("approver",), (public_text(key("ann").public_key()),))
    site.plan._judge.operators = replace(PEOPLE, people=(PEOPLE.people[0], twin))
    by("ann")(site)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (by(), "approval_missing"),
        (by("ann", "bob"), "applied"),
        (by("ann"), "too_few_approvers"),
        (by("ann", "ann"), "too_few_approvers"),
        (by("ann", "bob", expires=1_000_000), "approval_expired"),
        (by("ann", "bob", audience="staging"), "wrong_audience"),
        (by("ann", "bob", to_split="sha256:" + "1" * 64), "approval_mismatch"),
        (by("ann", "bob", stages_bp=(100, 1_000)), "stage_not_approved"),
        (by("ann", "oli"), "too_few_approvers"),
        (by("oli"), "approver_not_allowed"),
        (by("ann", author="ann"), "self_approval"),
        (duplicate_key, "too_few_approvers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_weight_rises_only_when_enough_people_allow_exactly_this(
    tmp_path: Path, change: Change, expected: str
) -> None:
    site = Site(tmp_path).shadowed()
    change(site)
    assert site.publish(site.canary()) == expected
    assert site.in_force().canary_bp == (500 if expected == "applied" else 0)


def test_the_author_is_known_by_the_bundle_whatever_a_statement_says(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.new = site.bundle(3, author="ann")
    site.shadowed()
    site.approve(site.in_force(), site.new, "ann", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "self_approval"
    site.approve(site.in_force(), site.new, "bob", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "too_few_approvers"
    site.approve(site.in_force(), site.new, "eve", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "applied"


def test_an_approval_of_a_plan_that_was_superseded_moves_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    target = site.split(primary=site.new, previous=site.old, salt="r-1")
    site.approve(target, site.new, "ann", "bob", from_split="sha256:" + "2" * 64)
    assert site.publish(target) == "approval_mismatch"


def test_a_candidate_taken_back_does_not_return_on_the_same_approval(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    assert site.publish(site.split(candidate=site.new, shadow_bp=5_000, salt="r-1")) == "applied"
    assert site.publish(site.canary()) == "approval_spent"
    site.restarted()
    assert site.publish(site.canary()) == "approval_spent"
    site.approve(site.in_force(), site.new, "ann", "bob", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "applied"


def test_a_person_added_to_the_gateway_s_own_list_counts_without_a_restart(tmp_path: Path) -> None:
    bare = replace(PEOPLE, people=tuple(p for p in PEOPLE.people if "owner" not in p.roles))
    site = Site(tmp_path, people=bare).shadowed()
    site.approve(site.in_force(), site.new, "ann", "zoe", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "too_few_approvers"
    site.people = replace(bare, people=(*bare.people, person("zoe")))
    assert site.publish(site.canary()) == "too_few_approvers", "a list that was changed has the next version"
    site.people = replace(site.people, version=bare.version + 1)
    assert site.publish(site.canary()) == "applied"


def test_a_gateway_s_list_grows_neither_younger_nor_beside_its_owners(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    site.people = replace(PEOPLE, version=9, people=(*PEOPLE.people, person("zoe")))
    site.approve(site.in_force(), site.new, "ann", "zoe", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "too_few_approvers"
    site = Site(tmp_path / "bare", people=replace(PEOPLE, version=3, people=PEOPLE.people[:3])).shadowed()
    site.people = replace(site.people, version=2, people=(*site.people.people, person("zoe")))
    site.approve(site.in_force(), site.new, "ann", "zoe", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "too_few_approvers"


def test_an_approval_that_fails_is_told_rather_than_an_older_one_that_is_spent(tmp_path: Path) -> None:
    site = Site(tmp_path).canaried()
    assert site.publish(site.split(candidate=site.new, shadow_bp=5_000, salt="r-1")) == "applied"
    site.approve(site.in_force(), site.new, "zoe", ceiling_bp=2_000)
    assert site.publish(site.canary()) == "signature_invalid"


def test_the_way_back_to_the_primary_before_needs_nobody(tmp_path: Path) -> None:
    site = Site(tmp_path).promoted()
    site.now += 100_000
    assert site.publish(site.split(salt="r-2")) == "applied"
    assert site.in_force().primary == site.old


def test_a_control_plane_with_the_plan_key_and_a_stranger_s_key_moves_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    by("ann", "bob")(site)
    stolen = key("somebody else")
    site.approvals[-2:] = [
        traffic_pb2.Envelope(payload=e.payload, payload_type=e.payload_type) for e in site.approvals[-2:]
    ]
    for envelope in site.approvals[-2:]:
        add_signature(envelope, stolen)
    assert site.publish(site.canary()) == "signature_invalid"
    # Its own key is no person's either.
    by("ann", "bob")(site)
    site.approvals[-2:] = [
        traffic_pb2.Envelope(payload=e.payload, payload_type=e.payload_type) for e in site.approvals[-2:]
    ]
    for envelope in site.approvals[-2:]:
        add_signature(envelope, site.plan_key)
    assert site.publish(site.canary()) == "signature_invalid"
    assert site.in_force().canary_bp == 0


def test_a_plan_forged_into_the_stream_changes_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    by("ann", "bob")(site)
    honest = site.offer_of(site.canary())
    forged = traffic_pb2.PlanOffer()
    forged.CopyFrom(honest)
    plan = TrafficPlan("test", 99, int(site.now), (site.canary(2_000),), ())
    forged.plan.CopyFrom(sign_plan(plan, key("thief")))
    assert site.said(forged) == "signature_invalid"
    assert site.in_force().canary_bp == 0
    # The stream goes on: what the control plane itself offers next is taken.
    assert site.publish(site.canary()) == "applied"


def test_a_gateway_does_not_start_where_the_control_plane_is_enrolled_as_a_person(tmp_path: Path) -> None:
    people = (*PEOPLE.people, Operator("cp", ("approver",), (public_text(key("plan").public_key()),)))
    with pytest.raises(ValueError, match="control plane's own key"):
        Site(tmp_path, replace(PEOPLE, people=people))


class TestLedger:
    """What the ledger does not show to hold does not count."""

    def test_an_approval_has_to_be_recorded(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        by("ann", "bob")(site)
        offer = site.offer_of(site.canary())
        fresh = [digest_bytes(e.payload).encode() for e in site.approvals[-2:]]
        kept = [record for record in offer.records if not any(digest in record.body for digest in fresh)]
        assert len(kept) == len(offer.records) - 2
        del offer.records[:]
        offer.records.extend(kept)
        assert site.said(offer) == "approval_not_recorded"

    def test_a_plan_has_to_be_recorded(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        offer = site.offer_of(site.split(candidate=site.new, salt="r-1"))
        plans = [record for record in offer.records if b"plan.offered" in record.body]
        offer.records.remove(plans[-1])
        assert site.said(offer) == "plan_not_recorded"

    def test_an_entry_that_was_edited_is_not_under_the_head(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        offer = site.offer_of(site.split(candidate=site.new, salt="r-1"))
        offer.records[0].body = offer.records[0].body.replace(b'"seq"', b'"sex"')
        assert site.said(offer) == "ledger_proof_invalid"

    def test_a_head_that_nobody_signed_is_refused(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        offer = site.offer_of(site.split(candidate=site.new, salt="r-1"))
        offer.checkpoint = ""
        assert site.said(offer) == "ledger_unsigned"

    def test_a_ledger_restored_from_an_old_backup_is_noticed_after_a_restart_too(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        site.ledger = MemoryLedger("test")
        assert site.publish(site.split(salt="r-2")) == "ledger_rolled_back"
        site.restarted()
        site.ledger = MemoryLedger("test")
        assert site.publish(site.split(salt="r-2")) == "ledger_rolled_back"
        assert site.in_force().candidate == site.new

    def test_a_ledger_whose_past_was_rewritten_is_noticed(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        site.ledger.bodies[1] = site.ledger.bodies[1].replace(b"approval", b"approvaI")
        assert site.publish(site.split(salt="r-2")) == "ledger_forked"

    def test_a_head_shown_beside_a_refused_plan_binds_its_keeper(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        for i in range(5):
            site.ledger.record(APPROVAL_GIVEN, f"sha256:{i:064}")
        assert site.publish(site.canary()) == "approval_missing"
        seen = site.plan.witness.head
        site.restarted()
        assert site.plan.witness.head == seen
        assert seen is not None and seen.size == len(site.ledger.bodies)

    def test_the_gateway_cosigns_what_it_saw(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        text = site.plan.witness.cosigned()
        assert verify_cosignature(text, "gateway/g", key("gateway").public_key()) == int(site.now)

    def test_a_proof_from_another_head_asks_for_a_new_hello(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        site.ledger.shown = 1
        assert site.publish(site.split(salt="r-2")) == "ledger_proof_stale"
        assert site.plan.witness.head is not None
        site.ledger.shown = site.plan.witness.head.size
        assert site.publish(site.split(salt="r-2")) == "applied"


def signed_version(following: Operators, *owners: str) -> traffic_pb2.Envelope:
    envelope = operators_envelope(following)
    for name in owners:
        add_signature(envelope, key(name))
    return envelope


class TestOperators:
    """Who may approve changes only as the owners say, and never back."""

    def with_update(self, site: Site, envelope: traffic_pb2.Envelope) -> str:
        offer = site.offer_of(replace(site.in_force(), shadow_bp=100))
        offer.operators.append(envelope)
        return site.said(offer)

    def test_the_owners_of_this_version_sign_the_next(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        following = replace(PEOPLE, version=2, people=(*PEOPLE.people, person("dan")))
        assert self.with_update(site, signed_version(following, "own")) == "operators_invalid"
        assert self.with_update(site, signed_version(following, "ann", "bob")) == "operators_invalid"
        assert self.with_update(site, signed_version(replace(following, version=3), "own", "won")) == (
            "operators_invalid"
        )
        assert self.with_update(site, signed_version(following, "own", "won")) == "applied"
        assert site.plan.operators.version == 2
        site.approve(site.in_force(), site.new, "bob", "dan", ceiling_bp=2_000)
        assert site.publish(site.canary()) == "applied"

    def test_an_older_list_does_not_come_back_after_a_restart(self, tmp_path: Path) -> None:
        site = Site(tmp_path).shadowed()
        without_bob = tuple(p for p in PEOPLE.people if p.person != "bob")
        assert self.with_update(site, signed_version(replace(PEOPLE, version=2, people=without_bob), "own", "won")) == (
            "too_few_approvers"
        )
        site.restarted()
        assert site.plan.operators.version == 2

    def test_a_revoked_key_approves_nothing_new_and_what_it_signed_before_stands(self, tmp_path: Path) -> None:
        site = Site(tmp_path).canaried()
        revoked = (Revoked(public_text(key("bob").public_key()), len(site.ledger.bodies)),)
        update = signed_version(replace(PEOPLE, version=2, revoked=revoked), "own", "won")
        assert self.with_update(site, update) == "applied"
        assert site.in_force().canary_bp == 500
        target = site.split(primary=site.new, previous=site.old, salt="r-1")
        site.approve(target, site.new, "bob", step="primary")
        assert site.publish(target) in ("over_ceiling", "key_revoked")
        site.approve(target, site.new, "ann", step="primary")
        assert site.publish(target) == "too_few_approvers"
        site.approve(target, site.new, "eve", step="primary")
        assert site.publish(target) == "applied"

    def test_a_list_out_of_date_lets_no_weight_rise_and_none_fall_less(self, tmp_path: Path) -> None:
        site = Site(tmp_path, replace(PEOPLE, expires=1_000_500)).canaried()
        site.now += 600
        assert site.publish(site.canary(2_000)) == "operators_expired"
        assert site.publish(site.canary(500)) == "applied"
        assert site.publish(site.split(salt="r-2")) == "applied"


def test_a_statement_with_two_signatures_counts_for_the_person_it_names(tmp_path: Path) -> None:
    site = Site(tmp_path).shadowed()
    by("ann")(site)
    add_signature(site.approvals[-1], key("bob"))
    assert site.publish(site.canary()) == "too_few_approvers"
