"""What may follow what: the rules a gateway trusts nobody else to keep."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protos.contract.attestation import Approval, Operator, Operators, public_text, sign_approval
from protos.contract.fields import FieldInvalid
from protos.contract.plan import Split, TrafficPlan
from protos.contract.plan_rules import (
    PlanRefused,
    check_approvals,
    check_plan,
    no_split_digest,
    open_plan,
    sign_plan,
    to_split_digest,
)

NOW = 1_000_000
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
EVIDENCE, SUITE = "sha256:" + "e" * 64, "sha256:" + "5" * 64
ANN, BOB = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
KEYS = {"ann": ANN, "bob": BOB}


def operators(required: int = 1, roles: tuple[str, ...] = ("approver",)) -> Operators:
    people = tuple(Operator(name, roles, (public_text(key.public_key()),)) for name, key in KEYS.items())
    return Operators(1, required, people)


def split(**changes: object) -> Split:
    base = Split("brand", OLD, None, None, 0, 0, 10_000, 0, "first")
    return replace(base, **changes)  # type: ignore[arg-type]


def plan(generation: int, *splits: Split) -> TrafficPlan:
    return TrafficPlan("prod", generation, NOW, splits, ())


def approval(target: Split, bundle: str, before: Split | None, **changes: object) -> Approval:
    made = Approval(
        person="ann",
        specialist="brand",
        rollout=target.salt,
        step="canary",
        bundle=bundle,
        evidence=EVIDENCE,
        suite=SUITE,
        from_split=before.shape_digest() if before else no_split_digest("brand"),
        to_split=to_split_digest(target, int(changes.get("ceiling_bp", 10_000))),  # type: ignore[call-overload]
        ceiling_bp=10_000,
        audience="prod",
        not_before=NOW - 10,
        expires=NOW + 3600,
        nonce="n",
        author="trainer",
        reason="looks right",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


FIRST = split()
SHADOWED = split(candidate=NEW, shadow_bp=5_000, salt="second")
CANARY = replace(SHADOWED, canary_bp=500)
PROMOTED = split(primary=NEW, previous=OLD, salt="second")
BOOTSTRAP = sign_approval(approval(FIRST, OLD, None), ANN)


def judge(before: TrafficPlan | None, after: TrafficPlan, *envelopes: object, now: int = NOW, required: int = 1) -> str:
    who = operators(required)
    try:
        check_plan(before, after, check_approvals([BOOTSTRAP, *envelopes], who, None), who, "prod", now)  # type: ignore[list-item]
    except PlanRefused as refused:
        return refused.reason
    return "applied"


def canary_approval(key: Ed25519PrivateKey = ANN, **changes: object) -> object:
    changes = {"ceiling_bp": 2_500, **changes}
    return sign_approval(approval(CANARY, NEW, SHADOWED, **changes), key)


def test_a_first_primary_needs_an_approval() -> None:
    who = operators()
    with pytest.raises(PlanRefused) as refused:
        check_plan(None, plan(1, FIRST), check_approvals([], who, None), who, "prod", NOW)
    assert refused.value.reason == "approval_missing"
    assert judge(None, plan(1, FIRST)) == "applied"


def test_the_way_back_leads_only_to_what_serves_or_was_the_way_back() -> None:
    # NEW was approved in full once and never served: naming it as the way back would let one person put it in place.
    once = sign_approval(approval(split(primary=NEW, salt="once"), NEW, FIRST, expires=NOW - 1), ANN)
    aimed = replace(FIRST, previous=NEW)
    assert judge(plan(1, FIRST), plan(2, aimed), once) == "way_back_unknown"
    assert judge(plan(1, FIRST), plan(2, replace(SHADOWED, previous=NEW)), once) == "way_back_unknown"
    assert judge(plan(1, replace(FIRST, previous=NEW)), plan(2, aimed), once) == "applied"
    swapped = replace(PROMOTED, candidate=None)
    rise = sign_approval(approval(swapped, NEW, FIRST), ANN)
    assert judge(plan(1, FIRST), plan(2, swapped), rise) == "applied"


def test_a_shadow_needs_no_approval() -> None:
    assert judge(plan(1, FIRST), plan(2, SHADOWED)) == "applied"


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        (None, "approval_missing"),
        (canary_approval(), "applied"),
        (canary_approval(ceiling_bp=400), "over_ceiling"),
        (canary_approval(expires=NOW), "approval_expired"),
        (canary_approval(not_before=NOW + 4000), "approval_not_yet_valid"),
        (canary_approval(audience="other"), "wrong_audience"),
        (canary_approval(specialist="fraud"), "approval_missing"),
        (canary_approval(to_split=to_split_digest(PROMOTED, 2_500)), "approval_mismatch"),
        (canary_approval(from_split=EVIDENCE), "applied_or_mismatch"),
        (canary_approval(author="ann"), "self_approval"),
        (canary_approval(BOB), "approver_unknown"),
        (canary_approval(Ed25519PrivateKey.generate()), "signature_invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_canary_rises_only_with_an_approval_of_exactly_this(envelope: object, expected: str) -> None:
    envelopes = [] if envelope is None else [envelope]
    found = judge(plan(1, SHADOWED), plan(2, CANARY), *envelopes)
    # The split is already in the approved shape, so only its weight is at stake there.
    assert found == ("applied" if expected == "applied_or_mismatch" else expected)


def test_one_person_is_not_two() -> None:
    twice = [canary_approval(nonce="1"), canary_approval(nonce="2")]
    bootstrap_by_bob = sign_approval(approval(FIRST, OLD, None, person="bob"), BOB)
    assert judge(plan(1, SHADOWED), plan(2, CANARY), bootstrap_by_bob, *twice, required=2) == "too_few_approvers"
    by_bob = canary_approval(BOB, person="bob")
    assert judge(plan(1, SHADOWED), plan(2, CANARY), bootstrap_by_bob, twice[0], by_bob, required=2) == "applied"


def test_one_key_under_two_names_is_refused_when_enrolled() -> None:
    value = operators().to_json()
    value["people"][1]["keys"] = value["people"][0]["keys"]
    with pytest.raises(ValueError, match="is enrolled for"):
        Operators.from_json(value)


def test_an_expired_approval_keeps_the_weight_but_cannot_raise_it() -> None:
    later = NOW + 10_000
    assert judge(plan(2, CANARY), plan(3, CANARY), canary_approval(), now=later) == "applied"
    higher = replace(CANARY, canary_bp=1_000)
    assert judge(plan(2, CANARY), plan(3, higher), canary_approval(), now=later) == "approval_expired"


def test_the_way_back_needs_no_fresh_approval() -> None:
    promotion = sign_approval(approval(PROMOTED, NEW, CANARY, step="primary"), ANN)
    assert judge(plan(2, CANARY), plan(3, PROMOTED), promotion) == "applied"
    back = split(salt="third")
    assert judge(plan(3, PROMOTED), plan(4, back), now=NOW + 10_000) == "applied"


def test_a_gateway_without_a_plan_joins_in_the_middle_of_a_rollout() -> None:
    assert judge(None, plan(2, SHADOWED), now=NOW + 10_000) == "applied"
    assert judge(None, plan(3, CANARY), canary_approval(), now=NOW + 10_000) == "applied"
    assert judge(None, plan(3, CANARY), canary_approval(expires=NOW)) == "approval_expired"
    assert judge(None, plan(3, PROMOTED), canary_approval()) == "over_ceiling"


def test_a_restarted_gateway_keeps_a_canary_whose_approval_has_expired() -> None:
    who, expired = operators(), check_approvals([BOOTSTRAP, canary_approval(expires=NOW)], operators(), None)  # type: ignore[list-item]
    check_plan(None, plan(3, CANARY), expired, who, "prod", NOW, was_in_force=True)
    with pytest.raises(PlanRefused):
        check_plan(None, plan(3, CANARY), check_approvals([BOOTSTRAP], who, None), who, "prod", NOW, was_in_force=True)


def test_an_approval_cannot_be_used_for_a_later_rollout_of_the_same_bundle() -> None:
    again = replace(CANARY, salt="third")
    before = replace(SHADOWED, salt="third")
    assert judge(plan(4, before), plan(5, again), canary_approval()) == "approval_mismatch"


def test_generations_only_rise() -> None:
    assert judge(plan(5, FIRST), plan(5, FIRST)) == "stale_generation"


@given(st.data())
def test_any_flipped_byte_of_a_signed_plan_is_refused(data: st.DataObject) -> None:
    key = Ed25519PrivateKey.generate()
    envelope = sign_plan(plan(1, CANARY), key)
    at = data.draw(st.integers(0, len(envelope.payload) - 1))
    payload = bytearray(envelope.payload)
    payload[at] ^= data.draw(st.integers(1, 255))
    envelope.payload = bytes(payload)
    with pytest.raises(PlanRefused) as refused:
        open_plan(envelope, key.public_key())
    assert refused.value.reason == "signature_invalid"


def test_a_signed_plan_reads_back_equal() -> None:
    key = Ed25519PrivateKey.generate()
    assert open_plan(sign_plan(plan(7, CANARY), key), key.public_key()) == plan(7, CANARY)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 10_000))
def test_no_weight_above_the_ceiling_is_ever_applied(before_bp: int, after_bp: int, ceiling: int) -> None:
    before, after = replace(CANARY, canary_bp=before_bp), replace(CANARY, canary_bp=after_bp)
    envelope = canary_approval(ceiling_bp=ceiling)
    found = judge(plan(1, before), plan(2, after), envelope)
    assert (found == "applied") == (after_bp <= ceiling)


def test_a_holdback_gives_no_bundle_traffic_and_keeps_a_model_from_a_tenth_at_most() -> None:
    held = replace(PROMOTED, holdback_bp=1_000)
    assert held.exposure() == PROMOTED.exposure()
    assert held.shape_digest() == PROMOTED.shape_digest()
    with pytest.raises(FieldInvalid, match="holdback_bp is 1001, expected 0 to 1000"):
        replace(PROMOTED, holdback_bp=1_001)
