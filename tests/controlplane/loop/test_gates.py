import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.detectors.sequential import Share
from controlplane.domain.rollout import GateReading, Verdict
from controlplane.loop.gates import (
    CANARY_GATES,
    SHADOW_GATES,
    Arm,
    ArmCount,
    PairCount,
    canary_gates,
    cost_share,
    fail_alpha,
    is_mistake,
    shadow_gates,
)
from controlplane.packs.registry import load_pack
from controlplane.settings import RolloutSettings

TASK = load_pack("brand-safety").task
LIMITS = RolloutSettings((100, 1000), 5000, 0, 0.05, 0.05, 0.05, 0.05, 0.5)


def verdicts(*pairs: PairCount) -> dict[str, Verdict]:
    return {r.gate: r.verdict for r in shadow_gates(TASK, pairs, LIMITS)}


NOTHING = Arm(ArmCount(0, 0, 0), Share(0, 0), Share(0, 0))


def matured(primary: str, candidate: str, label: str, n: int) -> PairCount:
    return PairCount(primary, candidate, True, label, n, is_matured=True)


def test_nothing_seen_is_not_yet_and_never_a_pass() -> None:
    assert set(verdicts().values()) == {Verdict.NOT_YET}
    nothing = canary_gates(NOTHING, NOTHING, LIMITS)
    assert {r.verdict for r in nothing} == {Verdict.NOT_YET}
    assert all(r.sample_missing > 0 for r in nothing)


def test_an_arm_without_requests_is_no_reason_to_pass_or_to_fail() -> None:
    broken = Arm(ArmCount(500, 500, 500), Share(500, 500), Share(500, 500))
    for canary, baseline in ((broken, NOTHING), (NOTHING, broken)):
        assert {r.verdict for r in canary_gates(canary, baseline, LIMITS)} == {Verdict.NOT_YET}


def test_agreement_on_time_passes() -> None:
    assert set(verdicts(matured("allow", "allow", "safe", 400)).values()) == {Verdict.PASS}


def test_an_outcome_that_is_not_due_says_nothing_of_mistakes() -> None:
    found = verdicts(PairCount("allow", "allow", True, "safe", 400))
    assert found.pop("shadow_mistakes") is Verdict.NOT_YET and set(found.values()) == {Verdict.PASS}


def test_what_cannot_be_measured_is_an_error_and_neither_harm_nor_a_pass() -> None:
    found = shadow_gates(TASK, [PairCount("allow", "sell", True, "safe", 400)], LIMITS)
    assert [r.gate for r in found] == list(SHADOW_GATES)
    assert {r.verdict for r in found} == {Verdict.ERROR} and "'sell'" in found[0].summary
    fell = Arm(ArmCount(-5, 0, 0), Share(0, 0), Share(0, 0))
    found = canary_gates(fell, NOTHING, LIMITS)
    assert [r.gate for r in found] == list(CANARY_GATES) and {r.verdict for r in found} == {Verdict.ERROR}


@pytest.mark.parametrize(
    ("pair", "gate"),
    [
        (PairCount("block", "allow", True, "unsafe", 200), "shadow_cost"),
        (PairCount("block", "allow", True, None, 200), "shadow_disagreement"),
        (PairCount("block", "", False, None, 200), "shadow_unanswered"),
        (PairCount("block", "block", False, None, 200), "shadow_late"),
        (matured("block", "allow", "unsafe", 200), "shadow_mistakes"),
    ],
    ids=["costly", "different", "silent", "late", "mistaken"],
)
def test_each_harm_fails_its_own_gate(pair: PairCount, gate: str) -> None:
    assert verdicts(pair)[gate] is Verdict.FAIL


def test_a_better_candidate_may_disagree_within_the_limit() -> None:
    found = verdicts(matured("allow", "block", "unsafe", 100), matured("allow", "allow", "safe", 300))
    assert set(found.values()) == {Verdict.PASS}


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_a_candidate_that_only_improves_never_fails_on_cost(better: int, same: int, unknown: int) -> None:
    found = verdicts(
        PairCount("allow", "block", True, "unsafe", better),
        PairCount("block", "block", True, "unsafe", same),
        PairCount("allow", "allow", True, None, unknown),
    )
    assert found["shadow_cost"] is not Verdict.FAIL


def test_a_canary_worse_than_its_baseline_fails_and_an_equal_one_does_not() -> None:
    usual = Arm(ArmCount(500, 20, 20), Share(50, 500), Share(60, 500))
    assert Verdict.FAIL not in {r.verdict for r in canary_gates(usual, usual, LIMITS)}
    good = Arm(ArmCount(500, 5, 0), Share(50, 500), Share(60, 500))
    worse = canary_gates(Arm(ArmCount(500, 200, 200), Share(250, 500), Share(250, 500)), good, LIMITS)
    assert {r.verdict for r in worse} == {Verdict.FAIL}


@given(st.integers(0, 60), st.integers(1, 60), st.booleans())
def test_the_sample_said_to_be_missing_brings_the_verdict(differ: int, same: int, is_cost: bool) -> None:
    label = "unsafe" if is_cost else None
    gate = "shadow_cost" if is_cost else "shadow_disagreement"

    def read(times: int) -> GateReading:
        pairs = (
            PairCount("block", "allow", True, label, times * differ),
            PairCount("block", "block", True, label, times * same),
        )
        return next(r for r in shadow_gates(TASK, pairs, LIMITS) if r.gate == gate)

    now = read(1)
    if now.verdict is not Verdict.NOT_YET or not now.sample_missing:
        return
    expected = Verdict.PASS if now.value <= now.limit else Verdict.FAIL
    assert f"about {now.sample_missing} more to {expected.value}" in now.summary
    needed = now.sample + now.sample_missing
    assert read(-(-needed // now.sample)).verdict is expected
    assert read((needed - 1) // now.sample).verdict is Verdict.NOT_YET


def test_a_cost_is_a_share_of_the_largest() -> None:
    assert cost_share(TASK, "unsafe", "allow") == 1.0
    assert cost_share(TASK, "safe", "allow") == 0.0


def test_a_mistake_is_a_decision_that_another_would_have_undercut() -> None:
    assert is_mistake(TASK, "unsafe", "allow") and not is_mistake(TASK, "safe", "allow")


def test_the_stated_level_is_shared_by_every_gate_of_every_stage() -> None:
    read = len(SHADOW_GATES) + len(LIMITS.stages_bp) * (len(SHADOW_GATES) + len(CANARY_GATES))
    assert fail_alpha(LIMITS) * read == pytest.approx(LIMITS.alpha)
